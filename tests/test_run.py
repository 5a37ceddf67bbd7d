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
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from tests.conftest import CONF

from efface.cli import main as entry
from efface.cli.conf import groups, option_files
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


def test_sweep_resumes_and_says_what_is_done(efface: Callable, tmp_path: Path) -> None:
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


def test_weights_and_biases_has_a_run_for_each_job(efface: Callable, tmp_path: Path) -> None:
    """Covers faults C8: no more than a record holds, and no key."""
    done = efface("-m", "method=none", "seed=0,1", logger="wandb")
    assert done.returncode == 0, done.stderr
    offline = sorted(tmp_path.rglob("offline-run-*/*.wandb"))
    assert len(offline) == 2
    assert {path.parents[2].name for path in offline} == {"seed=0", "seed=1"}
    assert all(path.stat().st_size > 1000 for path in offline)
    content = offline[0].read_bytes()
    for text in ("method=none seed=0", "colored_mnist_mini/mlp/erm/none/", "debiased.safetensors", "group_accuracy"):
        assert text.encode() in content  # its name, its group, its artifact, a table
    assert not list(tmp_path.rglob("requirements.txt"))  # what is installed: the record has the versions that matter
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_report_is_logged_with_its_plots(efface: Callable, tmp_path: Path) -> None:
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


def test_failed_job_does_not_stop_the_others(efface: Callable, tmp_path: Path) -> None:
    done = efface("-m", "dataset.bias_ratio=2,0.95,3", "evaluation.probe=false", "evaluation.mlp_probe=false")
    assert done.returncode == 1
    assert "2 jobs failed:" in done.stderr
    assert "bias_ratio is 2" in done.stderr
    assert "bias_ratio is 3" in done.stderr
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["method=leac"], ["Could not find 'method/leac'", "leace, leace_orth", "Did you mean method=leace?"]),
        (["+metod=leace"], ["metod: there is no such option", "Did you mean method?"]),
        (["dataset.bias_ratio=2"], ["bias_ratio is 2, but must be"]),
        (["dataset=features", "path=none.npz"], ["no file", "numpy.savez(path", "seed=0/error.json"]),
        (["objective=acuracy", "training.epochs=100000"], ["objective is 'acuracy'", "unbiased_accuracy"]),
        (["-m", "method=none,leace", "method.refit_head=true"], ["method=none has no option", "inlp, leace, leace_o"]),
        (["method=none,leace"], ["method=none,leace: these are several values. Add -m to run each of them"]),
        (["dataset=features"], ["set path=...", "dataset=features path=my.npz"]),
        (["method=rlace", "method.rank=all"], ["method.rank is 'all', but must be an integer"]),
        (["method=leace", "method.reweigh=maybe"], ["method.reweigh is 'maybe', but must be true or false"]),
        (["-m", "path=ü", "seed=0,1"], ["Quote it", "'path=\"ü\"'"]),
        (["device=cuda:7"], ["no CUDA device"]),
    ],
)
def test_bad_input_is_named(efface: Callable, tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    done = efface(*arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for text in expected:
        assert text in done.stderr
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize("results", ["/proc/efface", "/etc/hostname"])
def test_results_dir_that_cannot_be_written_is_named(results: str, tmp_path: Path) -> None:
    """Covers faults B4."""
    done = subprocess.run(command(Path(results), tmp_path / "cache"), **popen())  # type: ignore[call-overload]
    assert done.returncode == 1
    assert f"cannot write to {results}" in done.stderr
    assert "set results_dir=... to a folder that can" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Covers faults B3."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = popen()
    process["env"]["TMPDIR"] = str(scratch)
    for sweep in ([], ["-m", "seed=0,1"]):
        arguments = command(tmp_path / "results", tmp_path / "cache", *sweep, "dry_run=true")
        done = subprocess.run(arguments, **process)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        assert "to do " in done.stdout
    assert sorted(tmp_path.rglob("*")) == [scratch]


def test_options_that_all_swept_methods_have_are_set(efface: Callable) -> None:
    done = efface("-m", "method=leace,rlace", "method.refit_head=true", "dry_run=true")
    assert done.returncode == 0, done.stderr
    directories = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("to do ")]
    assert [Path(directory).parts[-3] for directory in directories] == ["leace", "rlace"]
    (alone,) = efface("method=leace", "method.refit_head=true", "dry_run=true").stdout.splitlines()
    assert alone.endswith(directories[0])


@pytest.mark.parametrize(("name", "folder"), [("config", CONF), ("scrubbing", CONF / "scrubbing")])
def test_help_names_everything_at_once(name: str, folder: Path) -> None:
    arguments = [sys.executable, str(ROOT / "run.py"), "--config-name", name, "--help"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(arguments, **popen())  # type: ignore[call-overload]
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)  # whatever else runs here
    for group in groups(folder):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{group}: ")]
        assert set(line.partition(": ")[2].split(", ")) == option_files(group, folder).keys()
    assert done.stdout.count("python run.py") >= 4
    assert min(seconds) < 1.5


def test_config_is_shown_with_every_option(efface: Callable) -> None:
    assert "refit_head" in efface("--cfg", "job", "method=leace").stdout


def test_full_disk_leaves_no_record_and_a_clear_error(tmp_path: Path, cache: Path) -> None:
    """Covers faults A5."""

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


def test_run_killed_at_any_moment_resumes(tmp_path: Path) -> None:
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


def test_run_started_twice_is_done_once(tmp_path: Path) -> None:
    arguments = command(tmp_path / "results", tmp_path / "cache")
    both = [subprocess.Popen(arguments, **popen()) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("finished already" in out for out, _ in outputs) == 1
    assert len(records(tmp_path / "results")) == 1


def test_missing_or_half_written_files_are_made_again(efface: Callable, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_the_command_and_leaves_no_scratch(tmp_path: Path, number: int, code: int) -> None:
    """Covers faults C5."""

    def as_in_a_terminal() -> None:  # a shell's background jobs ignore SIGINT, and so would their children
        signal.signal(number, signal.SIG_DFL)

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = popen()
    options["env"]["TMPDIR"] = str(scratch)
    arguments = command(tmp_path / "results", tmp_path / "cache", "training.epochs=2000")
    process = subprocess.Popen(arguments, preexec_fn=as_in_a_terminal, **options)
    while not list(tmp_path.rglob("*.lock")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("repeat the command to go on" in err) == (number == signal.SIGINT)
    assert not list(tmp_path.rglob("record.json"))
    assert not list(scratch.glob(".efface-*"))


def test_objective_is_that_of_val(parts_of: Callable) -> None:
    parts = parts_of()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "config",
            overrides=[
                f"results_dir={parts.results_dir}",
                f"cache_dir={parts.cache_dir}",
                "logger=none",
                "objective=accuracy",
            ],
        )
    value = entry.job(cfg)
    record = json.loads((parts.directory / "record.json").read_text())
    assert value == record["val_metrics"]["accuracy"]
    assert value != record["metrics"]["accuracy"]


@pytest.mark.parametrize(
    ("objective", "value", "expected"),
    [
        ("accuracy", 0.9, 0.9),
        ("counterfactual_bias", 0.2, 0.2),
        ("statistical_parity_difference", -0.25, 0.25),
        ("disparate_impact", 0.75, 0.25),
        ("disparate_impact", None, None),
    ],
)
def test_objective_that_should_be_zero_or_one_is_a_distance(
    objective: str, value: float | None, expected: float | None
) -> None:
    record = Record(id="0", config={}, seed=0, fingerprint="", status="done", val_metrics={objective: value}, run={})
    assert entry.objective_value(record, objective) == expected
