"""A grid of 45 runs by two workers: what it takes beyond training, and what five `kill -9` change of its records."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import Row
from efface.record import RECORD, Record

ROOT = Path(__file__).parent.parent
GRID = ["experiment=erasers", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "logger=none"]
WORKERS, KILLS, PER_RUN = 2, 5, 5.0
"""PER_RUN: the seconds that a run may take beside the training of all base models."""


def start(folder: Path, grid: list[str]) -> subprocess.Popen[str]:
    """Start the sweep in a process group of its own, with results and cache in `folder`."""
    folder.mkdir(exist_ok=True)
    places = [f"results_dir={folder / 'results'}", f"cache_dir={folder / 'cache'}"]
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "-m", *grid, *places],
        cwd=ROOT,
        env=env,
        text=True,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a sweep.

    Raises:
        RuntimeError: a job failed; with what the sweep wrote to stderr.
    """
    _, stderr = process.communicate()
    if process.returncode:
        raise RuntimeError(stderr)


def killed(folder: Path, grid: list[str], moments: list[float]) -> int:
    """Start the sweep and kill it, workers too, after each of `moments` in seconds; then let it finish.

    Returns how many times it was still running when it was to be killed.
    """
    running = 0
    for seconds in moments:
        process = start(folder, grid)
        time.sleep(seconds)
        if process.poll() is None:
            running += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(folder, grid))
    return running


def records(folder: Path) -> list[Record]:
    """Return the records of all runs, in the order of their paths."""
    return [Record.read(path) for path in sorted((folder / "results").rglob(RECORD))]


def contents(runs: list[Record]) -> list[dict[str, Any]]:
    """Return records without what may differ on repetition."""
    return [record.model_dump(exclude={"run"}) for record in runs]


def rows() -> Iterator[Row]:
    """Measure a sweep, undisturbed and killed; needs MNIST in DATA_DIR."""
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name) / "whole", Path(name) / "killed"
        begin = time.perf_counter()
        finish(start(whole, GRID))
        seconds = time.perf_counter() - begin
        runs = records(whole)
        trained = [record.run["seconds"]["training"] for record in runs if not record.run["cache_hit"]["model"]]
        limit = sum(trained) / WORKERS + PER_RUN * len(runs)
        yield Row(
            f"{len(runs)} runs on Colored MNIST, {WORKERS} workers",
            seconds,
            None,
            f"limit: {limit:.0f} s",
            f"{len(trained)} base models trained, {sum(trained):.0f} s of one worker; limit: half of that and "
            f"{PER_RUN:.0f} s a run",
        )
        draw = random.Random(0)
        begin = time.perf_counter()
        moments = [draw.uniform(0.2, 1) * seconds / KILLS for _ in range(KILLS)]
        if killed(broken, GRID, moments) < KILLS:
            raise RuntimeError("the sweep had ended before it was killed for the last time")
        total = time.perf_counter() - begin
        if contents(records(broken)) != contents(runs):
            raise RuntimeError("the records of the sweep that was killed are not those of the other")
        yield Row(
            f"the same, killed with `kill -9` {KILLS} times and repeated",
            total,
            None,
            "–",
            f"killed after {', '.join(f'{moment:.0f}' for moment in moments)} s; the {len(runs)} records are the same",
        )
