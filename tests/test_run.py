"""The command line, as a person uses it. Each command is a process of its own."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import CONF

from efface.record import Record

ROOT = CONF.parent
SECRET = "5ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def efface(tmp_path: Path, cache: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python run.py` with results in this test's folder."""

    def call(*arguments: str, logger: str = "none", **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(tmp_path, cache, *arguments, logger=logger), **popen(), **options)  # type: ignore[call-overload, no-any-return]

    return call


def command(results: Path, cache: Path, *arguments: str, logger: str = "none") -> list[str]:
    places = [f"results_dir={results}", f"cache_dir={cache}", f"logger={logger}"]
    return [sys.executable, str(ROOT / "run.py"), *arguments, *places]


def popen() -> dict:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_API_KEY": SECRET, "WANDB_MODE": "offline"}
    return {"cwd": ROOT, "env": env, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def records(results: Path) -> list[Record]:
    return [Record.read(path) for path in sorted(results.rglob("record.json"))]


def test_a_sweep_resumes_and_tells_what_is_done(efface: Callable, tmp_path: Path) -> None:
    jobs = ["-m", "method=none,leace", "seed=0"]
    done = efface(*jobs)
    assert done.returncode == 0, done.stderr
    found = {record.config["method"]["name"]: record for record in records(tmp_path)}
    assert set(found) == {"none", "leace"}
    assert [r.run["cache_hit"]["model"] for r in found.values()].count(False) <= 1
    again = efface(*jobs)
    assert again.stdout.count("finished already") == 2
    dry = efface("-m", "method=none,leace", "seed=0,1", "dry_run=true")
    states = [line.split()[0] for line in dry.stdout.splitlines() if "seed=" in line and line[0] != "["]
    assert states == ["done", "to", "done", "to"]
    assert not list(tmp_path.rglob("seed=1"))
    for path in tmp_path.rglob("record.json"):
        path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    assert "another fingerprint" in efface("method=none", "dry_run=true").stdout
    refused = efface("method=none")
    assert refused.returncode == 1
    assert "overwrite=true replaces it" in refused.stderr


def test_weights_and_biases_gets_a_run_for_each_job(efface: Callable, tmp_path: Path) -> None:
    done = efface("-m", "method=none", "seed=0,1", logger="wandb")
    assert done.returncode == 0, done.stderr
    offline = sorted(tmp_path.rglob("offline-run-*/*.wandb"))
    assert len(offline) == 2
    assert {path.parents[2].name for path in offline} == {"seed=0", "seed=1"}
    assert all(path.stat().st_size > 1000 for path in offline)
    content = offline[0].read_bytes()
    for text in ("method=none seed=0", "colored_mnist_mini/mlp/erm/none/", "debiased.safetensors", "group_accuracy"):
        assert text.encode() in content  # its name, its group, its artifact, a table
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_report_is_logged_with_its_figures(efface: Callable, tmp_path: Path) -> None:
    assert efface("method=leace", "evaluation.mlp_probe=false").returncode == 0
    for module, *arguments in (["efface.report", tmp_path], ["efface.runs.tracking", tmp_path / "report"]):
        done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], **popen())  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    for text in ("accuracy_against_bias", "index.html", "table.tex"):
        assert text.encode() in log.read_bytes()
    done = subprocess.run([sys.executable, "-m", "efface.runs.tracking", str(tmp_path / "none")], **popen())  # type: ignore[call-overload]
    assert done.returncode == 1
    assert "is no report" in done.stderr


def test_a_failed_job_does_not_stop_the_others(efface: Callable, tmp_path: Path) -> None:
    done = efface("-m", "dataset.bias_ratio=2,0.95,3", "evaluation.probe=false", "evaluation.mlp_probe=false")
    assert done.returncode == 1
    assert "2 jobs failed:" in done.stderr
    assert "bias_ratio is 2" in done.stderr
    assert "bias_ratio is 3" in done.stderr
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["method=leac"], ["Could not find 'method/leac'", "leace", "none"]),
        (["method.refit_hed=true", "method=leace"], ["Keys of method", "Did you mean method.refit_head?"]),
        (["datset=colored_mnist"], ["Groups and keys", "Did you mean dataset?"]),
        (["dataset.bias_ratio=2"], ["bias_ratio is 2, but must be a number >= 0"]),
        (["dataset=features"], ["Missing mandatory value: path", "path=..."]),
        (["dataset=features", "path=none.npz"], ["no file", "numpy.savez(path"]),
        (["objective=acuracy", "training.epochs=100000"], ["objective is 'acuracy'", "unbiased_accuracy"]),
        (
            ["-m", "method=none,leace", "method.refit_head=true"],
            ["Not every method", "these do: inlp, leace, leace_orth"],
        ),
        (["method=rlace", "method.rank=all"], ["method.rank is 'all', but must be an integer >= 1 or null"]),
        (["method=leace", "method.reweigh=maybe"], ["method.reweigh is 'maybe', but must be true or false"]),
        (["seed=1.5"], ["seed is 1.5, but must be an integer"]),
        (["device=3"], ["device is 3, but must be a string"]),
        (["results_dir=/proc/efface"], ["/proc/efface"]),
        (["device=cuda:7"], ["no CUDA device"]),
    ],
)
def test_bad_input(efface: Callable, arguments: list[str], expected: list[str]) -> None:
    done = efface(*arguments) if "results_dir" not in arguments[0] else run_at("/proc/efface")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for text in expected:
        assert text in done.stderr


def run_at(results: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, str(ROOT / "run.py"), "logger=none", f"results_dir={results}"], **popen()
    )


def test_help_and_config_name_everything(efface: Callable) -> None:
    text = efface("--help").stdout
    for path in CONF.glob("*/*.yaml"):
        assert path.parent.name in text
        assert path.stem in text
    assert text.count("python run.py") >= 4
    assert "refit_head" in efface("--cfg", "job", "method=leace").stdout


def test_a_full_disk_leaves_no_record_and_a_clear_error(tmp_path: Path, cache: Path) -> None:
    def no_file_above_10_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    arguments = command(tmp_path / "results", tmp_path / "cache")
    done = subprocess.run(arguments, preexec_fn=no_file_above_10_kb, **popen())  # type: ignore[call-overload]
    assert done.returncode == 1
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("record.json"))
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("*.tmp"))
    assert subprocess.run(arguments, **popen()).returncode == 0  # type: ignore[call-overload]
    assert len(records(tmp_path / "results")) == 1


def test_killed_at_any_moment_it_resumes(tmp_path: Path) -> None:
    """`kill -9` at growing delays, into training, caching and evaluation: whatever is left, the last call finishes."""
    arguments = command(tmp_path / "results", tmp_path / "cache", "method=leace")
    for delay in (0.0, 0.3, 0.9):
        process = subprocess.Popen(arguments, **popen())
        while not list(tmp_path.rglob(".lock")) and process.poll() is None:
            time.sleep(0.01)  # past the imports: it works now
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(arguments, **popen())  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    undisturbed = command(tmp_path / "other", tmp_path / "other_cache", "method=leace")
    assert subprocess.run(undisturbed, **popen()).returncode == 0  # type: ignore[call-overload]
    one, other = records(tmp_path / "results"), records(tmp_path / "other")
    assert [r.model_dump(exclude={"run"}) for r in one] == [r.model_dump(exclude={"run"}) for r in other]


def test_started_twice_it_runs_once(tmp_path: Path) -> None:
    arguments = command(tmp_path / "results", tmp_path / "cache")
    both = [subprocess.Popen(arguments, **popen()) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("finished already" in out for out, _ in outputs) == 1
    assert len(records(tmp_path / "results")) == 1


def test_what_is_gone_or_half_written_is_made_again(efface: Callable, tmp_path: Path) -> None:
    quick = ["training.epochs=1", "evaluation.mlp_probe=false"]
    assert efface(*quick).returncode == 0
    (path,) = tmp_path.rglob("debiased.safetensors")
    tensors = load_file(path)
    path.unlink()
    (path.parent / ".record.json.0.tmp").write_text("left by kill -9")
    assert "to do" in efface(*quick, "dry_run=true").stdout
    again = efface(*quick)
    assert "debiased.safetensors is gone: running it again" in again.stdout
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(path).items())
    assert not list(tmp_path.rglob("*.tmp"))


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    def as_in_a_terminal() -> None:  # a shell's background jobs ignore SIGINT, and so would their children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    arguments = command(tmp_path / "results", tmp_path / "cache", "training.epochs=2000")
    process = subprocess.Popen(arguments, preexec_fn=as_in_a_terminal, **popen())
    while not list(tmp_path.rglob("*.lock")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "repeat the command to go on" in err
    assert not list(tmp_path.rglob("record.json"))


def test_the_objective_is_returned_to_a_sweeper(parts_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import run as entry
    from hydra import compose, initialize_config_dir

    parts = parts_of()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "config",
            overrides=[
                f"results_dir={parts.results_dir}", f"cache_dir={parts.cache_dir}", "logger=none",
                "objective=accuracy",
            ],
        )  # fmt: skip
    value = entry.job(cfg)
    record = json.loads((parts.directory / "record.json").read_text())
    assert value == record["val_metrics"]["accuracy"]
    assert value != record["metrics"]["accuracy"]
