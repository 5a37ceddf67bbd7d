"""Records of real runs, for all tests of the report."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import executed

from efface.report import frames
from efface.report.records import collect
from efface.runs import grid


@pytest.fixture(scope="session")
def results(parts_of: Callable[..., grid.GridRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs: two methods, one of them under two options, and one job that does not apply."""
    root = tmp_path_factory.mktemp("results")
    cheap = ["evaluation.mlp_probe=false"]
    for overrides in (
        ["method=none", "seed=0"],
        ["method=none", "seed=1"],
        ["method=leace", "seed=0"],
        ["method=leace", "method.refit_head=true", "seed=0"],
        ["method=leace", "method.fit_on=train", "method.reweigh=true", "dataset.bias_ratio=1.0", "seed=0"],
    ):
        executed(parts_of(*cheap, *overrides), root)
    return root


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "results"))


@pytest.fixture
def write_csv() -> Callable[[Path, Path], None]:
    """Write the frames of some results to the folder `csv` in another, where `collect` reads them."""

    def write(results: Path, folder: Path) -> None:
        (folder / "csv").mkdir()
        collection = collect(results)
        frames.write(collection.runs, collection.pooled, collection.beside, folder / "csv")

    return write


def record_of(results: Path, *parts: str) -> Path:
    """The one record whose path holds these parts."""
    (found,) = [path for path in results.rglob("record.json") if all(f"/{part}/" in str(path) for part in parts)]
    return found


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of a report's time."""
    monkeypatch.setattr("efface.report.__main__.draw", lambda collection, folder: [])
