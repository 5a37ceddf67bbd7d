"""Grids: launchers, sweepers, and what is left when they are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from benchmarks.bench_sweep import contents, finish, killed, records, start
from tests.conftest import CONF

ROOT = CONF.parent
QUICK = ["training.epochs=2", "evaluation.mlp_probe=false", "logger=none"]


def command(folder: Path, *arguments: str) -> list[str]:
    places = [f"results_dir={folder / 'results'}", f"cache_dir={folder / 'cache'}"]
    return [sys.executable, str(ROOT / "run.py"), "-m", *arguments, *QUICK, *places]


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(command(folder, *arguments), capture_output=True, text=True, cwd=folder, env=env)


def test_jobs_side_by_side_share_models_and_cores_and_survive_a_failure(tmp_path: Path) -> None:
    two = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = sweep(tmp_path, *two, "dataset.bias_ratio=2,0.9", "method=none,leace", "seed=0")
    assert done.returncode == 1
    listed = done.stderr[done.stderr.index("2 jobs failed:") :]
    assert listed.count("bias_ratio is 2, but must be a number >= 0") == 2
    assert "/leace/" in listed
    done_records = records(tmp_path)
    assert {record.config["method"]["name"] for record in done_records} == {"none", "leace"}
    assert [record.run["cache_hit"]["model"] for record in done_records].count(False) == 1
    assert {record.run["threads"] for record in done_records} == {max(1, len(os.sched_getaffinity(0)) // 2)}
    assert not list(tmp_path.glob(".efface-*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["method=leace", "method.projektion=leace,orth"],
        ["method=none,leac"],
        ["hydra/launcher=joblib", "method=leace", "method.projektion=leace,orth"],
        ["hydra/sweeper=tune", "method=leace", "method.projektion=choice(leace,orth)"],
    ],
    ids=["option", "group", "joblib", "tune"],
)
def test_unknown_option_fails_before_the_first_job(tmp_path: Path, arguments: list[str]) -> None:
    """Covers faults C1."""
    done = sweep(tmp_path, *arguments)
    assert done.returncode == 1
    assert "Did you mean method.projection?" in done.stderr or "Could not find 'method/leac'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("seed=0"))


@pytest.mark.slow
def test_tuning_is_on_val_towards_the_better_side_and_resumes(tmp_path: Path) -> None:
    space = ["method=leace", "method.refit_head=true", "method.refit_l2=tag(log,interval(1e-5,10))", "seed=0"]
    arguments = ["hydra/sweeper=tune", "hydra.sweeper.n_trials=3", "objective=counterfactual_bias", *space]
    done = sweep(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    tried = {record.val_metrics["counterfactual_bias"]: record for record in records(tmp_path)}
    assert len(tried) == 3
    best = yaml.safe_load((tmp_path / "results" / "optimization_results.yaml").read_text())
    assert best["best_value"] == min(tried)
    assert best["best_params"]["method.refit_l2"] == tried[min(tried)].config["method"]["refit_l2"]
    again = sweep(tmp_path, *arguments)
    assert again.stdout.count("finished already") == 3


def test_tuning_towards_no_metric_is_refused_at_once(tmp_path: Path) -> None:
    space = ["method=leace", "method.refit_l2=interval(1e-5,10)"]
    wrong = sweep(tmp_path, "hydra/sweeper=tune", "objective=nothing", *space)
    assert wrong.returncode == 1
    assert "objective is 'nothing', but must be one of accuracy, " in wrong.stderr
    assert not list(tmp_path.rglob("seed=0"))


@pytest.mark.parametrize("full", ["0", "1"])
def test_tuning_by_a_null_metric_says_why(tmp_path: Path, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers faults B12."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", full)
    space = ["hydra.sweeper.n_trials=2", "method=leace", "method.refit_head=true", "method.refit_l2=interval(1e-5,10)"]
    done = sweep(tmp_path, "hydra/sweeper=tune", "objective=equal_opportunity_difference", *space)
    assert done.returncode == 1
    if full == "0":
        assert "2 jobs failed:" in done.stderr
        assert "Traceback" not in done.stderr[done.stderr.index("2 jobs failed:") :]
    assert "objective=equal_opportunity_difference is null on val: " in done.stderr
    assert "binary" in done.stderr


def test_failed_trials_are_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers faults B12."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    space = ["hydra.sweeper.n_trials=2", "dataset.bias_ratio=choice(0.9,2)"]
    done = sweep(tmp_path, "hydra/sweeper=tune", *space)
    assert done.returncode == 1
    assert "failed:" in done.stderr
    assert len(records(tmp_path)) == 1


@pytest.mark.slow
def test_cluster_of_one(tmp_path: Path) -> None:
    done = sweep(tmp_path, "hydra/launcher=submitit_local", "method=none,leace", "dataset.bias_ratio=0.9,2", "seed=0")
    assert done.returncode == 1
    assert "2 jobs failed:" in done.stderr
    assert len(records(tmp_path)) == 2
    assert not list(tmp_path.glob(".efface-*"))


def test_cluster_config_is_whole() -> None:
    shown = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "hydra/launcher=slurm", "--cfg", "hydra", "-p", "hydra.launcher"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    config = yaml.safe_load("\n".join(line for line in shown.splitlines() if not line.startswith("#")))
    assert config["_target_"].endswith("SlurmLauncher")
    cores = "${hydra.launcher.cpus_per_task}"
    assert config["setup"] == [f"export OMP_NUM_THREADS={cores}", f"export SRUN_CPUS_PER_TASK={cores}"]


def processes_of(group: int) -> list[str]:
    """The commands of a process group that have not ended."""
    running = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
            state, _, its_group = rest.split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(its_group) == group and state not in "ZX":
            running.append(name)
    return running


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads Linux's /proc")
def test_workers_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    grid = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "training.epochs=100000", "seed=0,1", "logger=none"]
    process = start(tmp_path, grid)
    while len(list(tmp_path.rglob("seed=*/.lock"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    assert len(processes_of(process.pid)) > 2
    process.kill()
    deadline = time.monotonic() + 20
    while (left := processes_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert left == []


PARENT = """
import subprocess, sys, time; from pathlib import Path
process = subprocess.Popen(sys.argv[2:])
while not list(Path(sys.argv[1]).rglob("seed=*/.lock")):
    assert process.poll() is None
    time.sleep(0.05)
"""
"""A shell that is closed as soon as the first job runs."""


@pytest.mark.slow
def test_sweep_in_the_command_itself_outlives_its_shell(tmp_path: Path) -> None:
    one = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "seed=0,1,2"]
    shell = [sys.executable, "-c", PARENT, str(tmp_path), *command(tmp_path, *one)]
    subprocess.run(shell, capture_output=True, cwd=tmp_path, check=True)  # until the command, too, closes its output
    assert sorted(record.seed for record in records(tmp_path)) == [0, 1, 2]


@pytest.mark.slow
def test_sweep_killed_five_times_and_repeated_is_as_if_undisturbed(tmp_path: Path) -> None:
    grid = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "method=none,leace,mean_projection"]
    grid += ["dataset.bias_ratio=0.9,0.95", "seed=0,1", *QUICK]
    begin = time.perf_counter()
    finish(start(tmp_path / "whole", grid))
    seconds = time.perf_counter() - begin
    draw = random.Random(0)
    assert killed(tmp_path / "killed", grid, [draw.uniform(0.2, 0.5) * seconds for _ in range(5)]) > 0
    one, other = records(tmp_path / "whole"), records(tmp_path / "killed")
    assert len(one) == 12
    assert contents(one) == contents(other)
    assert [record.run["cache_hit"]["model"] for record in one].count(False) == 4
    assert not list((tmp_path / "killed").rglob("*.tmp"))
