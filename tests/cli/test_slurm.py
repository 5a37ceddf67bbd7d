"""The launcher for clusters against a real Slurm, of one node."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.bench_sweep import records
from tests.cli.one_node_slurm import jobs, one_node_slurm
from tests.conftest import CONF

pytestmark = pytest.mark.slow
ROOT = CONF.parent


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with one_node_slurm(cpus=12, megabytes=3 * 16 * 1024) as env:  # three jobs as slurm.yaml has them
        yield env


def sweep(folder: Path, env: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    quick = ["training.epochs=2", "evaluation.mlp_probe=false", "logger=none"]
    places = [f"results_dir={folder / 'results'}", f"cache_dir={folder / 'cache'}"]
    command = [sys.executable, str(ROOT / "run.py"), "-m", "hydra/launcher=slurm", *overrides, *quick, *places]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300)


def wait_until_idle(env: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while jobs(env):  # the result of a job is there before its process has ended
        assert time.monotonic() < deadline
        time.sleep(0.2)


def processes(text: str) -> dict[int, bytes]:
    """The environments of this machine's processes whose command line contains a text."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "cmdline").read_bytes():
                found[int(folder.name)] = (folder / "environ").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_a_job_that_fails_is_named_and_the_others_are_reported(tmp_path: Path, slurm: dict[str, str]) -> None:
    done = sweep(tmp_path, slurm, "training.lr=0.001,0.01,1e30")
    assert done.returncode == 1
    listed = done.stderr[done.stderr.index("1 job failed:") :]
    (error,) = tmp_path.rglob("error.json")
    assert f"  {error.parent}: FloatingPointError: training diverged" in listed
    assert str(error) in listed
    assert "Traceback" not in done.stderr
    assert [record.config["training"]["lr"] for record in records(tmp_path)] in ([0.001, 0.01], [0.01, 0.001])
    report = [sys.executable, "-m", "efface.report", str(tmp_path / "results")]
    subprocess.run(report, cwd=ROOT, check=True, capture_output=True)
    assert len((tmp_path / "results" / "report" / "runs.csv").read_text().splitlines()) == 3
    wait_until_idle(slurm)
    assert not processes(str(tmp_path))
    assert not list(tmp_path.glob(".efface-*"))


def kill_job(number: int, folder: Path) -> None:
    """As the kernel does to a job that takes too much memory."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid, environment in processes(f"submitit.core._submit\0{folder}").items():
            if f"SLURM_ARRAY_TASK_ID={number}\0".encode() in environment and b"SLURM_STEP_ID=" in environment:
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.05)


def test_a_job_that_is_killed_is_named_beside_those_that_failed(tmp_path: Path, slurm: dict[str, str]) -> None:
    killer = threading.Thread(target=kill_job, args=(1, tmp_path))
    killer.start()
    done = sweep(tmp_path, slurm, "training.lr=1e30,0.001,0.01")
    killer.join()
    assert done.returncode == 1
    assert "1 job failed:" in done.stderr
    assert "has not produced any output (state: FAILED)" in done.stderr
    assert "repeat the command to go on" in done.stderr
    wait_until_idle(slurm)
    assert [record.config["training"]["lr"] for record in records(tmp_path)] == [0.01]
    again = sweep(tmp_path, slurm, "training.lr=0.001,0.01")
    assert again.returncode == 0, again.stderr
    assert len(records(tmp_path)) == 2
    wait_until_idle(slurm)
    assert not processes(str(tmp_path))
