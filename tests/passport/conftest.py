"""Real runs, for all tests of passports and of their verification."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import executed
from tests.report.conftest import record_of

from efface.runs import grid

__all__ = ["record_of"]


@pytest.fixture(scope="session")
def finished(parts_of: Callable[..., grid.GridRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of four methods on digits in colour."""
    root = tmp_path_factory.mktemp("finished")
    cheap = ["evaluation.mlp_probe=false", "evaluation.bootstrap=100", "training.epochs=5", "seed=0"]
    for overrides in (["method=none"], ["method=leace"], ["method=fmd_published"], ["method=certified"]):
        executed(parts_of(*cheap, *overrides), root)
    return root


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "results"))
