"""Small real data, one training per fixture."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from tests.data import adult_files

from efface.cli import main as entry
from efface.data.base import Dataset
from efface.debiased import Debiased
from efface.methods.base import Method, NotApplicable
from efface.problem import Features, Problem
from efface.runs import base, grid

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: threads of one that wait for those of another are slower than one thread each.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

CONF = entry.CONF


@pytest.fixture(scope="session")
def parts_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., grid.GridRun]:
    """Runs composed from the real configuration, sharing a cache, with results in one temporary folder."""
    root = tmp_path_factory.mktemp("efface")

    def build(*overrides: str) -> grid.GridRun:
        places = [f"results_dir={root / 'results'}", f"cache_dir={root / 'cache'}", "logger=none", "device=cpu"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return entry.build(compose("config", overrides=[*places, *overrides]))

    return build


@pytest.fixture(scope="session")
def mini(parts_of: Callable[..., grid.GridRun]) -> Dataset:
    parts = parts_of()
    return parts.dataset.load(data_dir=Path(), cache_dir=Path(), seed=0)


class _Spy(Method):
    """A method that keeps the problem it sees, and does not apply."""

    problem: Problem

    def training_data(self, problem: Problem) -> Features:
        self.problem = problem
        raise NotApplicable("only looking")

    def fit(self, problem: Problem) -> Debiased:
        self.training_data(problem)
        raise AssertionError("it does not apply")


def problem_of(parts: grid.GridRun) -> Problem:
    """What a method sees in a run of these parts."""
    spy = _Spy()
    elsewhere = parts.results_dir.with_name("looked_at")
    looking = replace(parts, method=spy, overwrite=True, results_dir=elsewhere)
    base.execute(looking, say=lambda message: None)
    return spy.problem


@pytest.fixture(scope="session")
def ten_classes(parts_of: Callable[..., grid.GridRun]) -> Problem:
    """What a method sees of small Colored MNIST under an MLP."""
    return problem_of(parts_of())


@pytest.fixture(scope="session")
def two_classes(parts_of: Callable[..., grid.GridRun]) -> Problem:
    """The same of the digits 3 and 8."""
    return problem_of(parts_of("dataset.classes=[3,8]"))


@pytest.fixture(scope="session")
def tabular(parts_of: Callable[..., grid.GridRun], tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """What a method sees of a table in the layout of UCI Adult under a linear model."""
    folder = adult_files.write(tmp_path_factory.mktemp("tabular"))
    sizes = ("dataset.n_val=200", "dataset.n_pairs=100", "dataset.min_rows=30")
    return problem_of(parts_of("dataset=adult", f"data_dir={folder}", *sizes))


def executed(parts: grid.GridRun, results_dir: Path, **changes: Any) -> grid.GridRun:
    """Execute a run with its results elsewhere. Returns that run."""
    run = replace(parts, results_dir=results_dir, **changes)
    base.execute(run, say=lambda message: None)
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, which asks for nothing of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("install chromium, see .ci/run")
    from playwright.sync_api import sync_playwright

    quiet = ("gpu", "dev-shm-usage", "background-networking", "component-update", "sync")
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@contextmanager
def read_only(root: Path) -> Iterator[None]:
    """Within this context nothing below a folder can be written, not even by root, who becomes nobody."""
    for parent in root.absolute().parents:
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)  # nobody has to get there
    modes = {path: path.stat().st_mode for path in (root, *root.rglob("*"))}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in modes.items():
            path.chmod(mode)
