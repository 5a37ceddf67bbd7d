"""Real runs, for all tests of passports and of their verification."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import executed
from tests.report.conftest import record_of

from efface import tensorfiles
from efface.debiased import MODEL_FILE
from efface.files import file_digest
from efface.passport import passport_of, write
from efface.runs import grid
from efface.verify.__main__ import main

__all__ = ["record_of"]


def run_of(results: Path, method: str = "leace") -> Path:
    return record_of(results, method).parent


def edit(run_dir: Path, change: Callable[[dict[str, Any]], object], file: str = "record.json") -> None:
    path = run_dir / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1))


def under_right_digests(run_dir: Path) -> None:
    """Let record and passport name the files that are there, as a forger would."""
    edit(run_dir, lambda r: r["artifacts"].update({name: file_digest(run_dir / name) for name in r["artifacts"]}))
    write(passport_of(run_dir), run_dir)


def forge_eraser(run_dir: Path) -> None:
    """Let the eraser erase half of what it did, in a file with a right checksum of its own."""
    path = run_dir / MODEL_FILE
    tensors, facts = tensorfiles.read(path, kind="debiased model")
    tensors["represent.proj_left"] *= 0.5
    tensorfiles.write(path, tensors, kind="debiased model", facts=facts)


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


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Verify, and return the exit status and what differs."""

    def verify(folder: Path, *options: str | Path) -> tuple[int, str]:
        status = main([str(folder), *map(str, options)])
        said = capsys.readouterr()
        return status, "\n".join([line for line in said.out.splitlines() if line.startswith("DIFFERS")] + [said.err])

    return verify


@pytest.fixture
def cache(parts_of: Callable[..., grid.GridRun]) -> Path:
    return parts_of().cache_dir
