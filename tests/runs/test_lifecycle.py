"""What every run goes through, with a run that computes nothing to speak of."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import read_only

from efface.record import Record
from efface.runs import base, directory
from efface.runs.base import FingerprintError, OtherRunError, Outcome, Run
from efface.runs.session import Session
from efface.runs.tracking import NoTracker

NODES = ("dataset", "model", "training", "method", "evaluation")
QUIET: dict[str, Any] = {"say": lambda message: None}


@dataclass(frozen=True, kw_only=True)
class Trivial(Run):
    """Writes a number, and reports it."""

    required_artifacts = ("number.txt",)
    value: float = 1.0
    data: Callable[[], str] = lambda: "data"
    extra: tuple[str, ...] = ()
    action: Callable[[], None] = lambda: None
    metrics: dict[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        return self.data()

    def compute(self, session: Session) -> Outcome:
        self.action()
        content = str(self.value)
        return Outcome(
            metrics={"accuracy": self.value, **self.metrics},
            info={"steps": [math.nan, 1.0]},
            writers={name: lambda path: path.write_text(content) for name in ("number.txt", *self.extra)},
        )


@pytest.fixture
def run(tmp_path: Path) -> Trivial:
    return Trivial(config={node: {"name": node, "option": 1} for node in NODES}, results_dir=tmp_path / "results")


def whole(run: Run) -> float:
    """The value of a finished run, whose record and artefact agree."""
    record = Record.read(run.directory / "record.json")
    assert directory.damages(run.directory, record, run.required_artifacts) == []
    value = float((run.directory / "number.txt").read_text())
    assert record.metrics["accuracy"] == value
    return value


def fail() -> None:
    raise RuntimeError("singular")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("action", [fail, interrupt])
def test_an_overwrite_that_fails_leaves_the_finished_run(run: Trivial, action: Callable[[], None]) -> None:
    """Covers faults A5."""
    base.execute(run, **QUIET)
    with pytest.raises((RuntimeError, KeyboardInterrupt)) as error:
        base.execute(replace(run, value=2.0, overwrite=True, action=action), **QUIET)
    notes = getattr(error.value, "__notes__", [])
    assert [str(run.directory / "error.json") in note for note in notes] == [True] * (action is fail)
    assert whole(run) == 1
    assert base.status(run) == "done"
    assert (run.directory / "error.json").exists() == (action is fail)
    base.execute(replace(run, value=2.0, overwrite=True), **QUIET)
    assert whole(run) == 2
    assert not (run.directory / "error.json").exists()


def test_an_overwrite_without_its_data_fails_before_it_computes(run: Trivial) -> None:
    """Covers faults A5."""

    def gone() -> str:
        raise FileNotFoundError("data.npz")

    base.execute(run, **QUIET)
    with pytest.raises(FileNotFoundError, match=r"data\.npz"):
        base.execute(replace(run, data=gone, overwrite=True, action=fail), **QUIET)
    assert whole(run) == 1


def test_an_overwrite_that_cannot_be_recorded_leaves_the_finished_run(run: Trivial) -> None:
    """Covers faults A5."""
    base.execute(run, **QUIET)

    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left on device")

    class Full(Trivial):
        def compute(self, session: Session) -> Outcome:
            outcome = super().compute(session)
            return replace(outcome, writers={**outcome.writers, "second.txt": full})

    with pytest.raises(OSError, match="no space left"):
        base.execute(Full(**{**vars(run), "value": 2.0, "overwrite": True}), **QUIET)
    assert whole(run) == 1
    assert not list(run.directory.glob(".unfinished*"))


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.runs.test_lifecycle import Trivial, NODES, QUIET
from efface.runs import base
run = Trivial(config={{node: {{"name": node, "option": 1}} for node in NODES}}, results_dir=Path({results!r}))
moves = 0
def replaced(self, target, original=Path.replace):
    global moves
    if self.parent.name == ".complete":
        if moves == {after}:
            os.kill(os.getpid(), signal.SIGKILL)
        moves += 1
    return original(self, target)
Path.replace = replaced
def action():
    if {after} < 0:
        os.kill(os.getpid(), signal.SIGKILL)
base.execute(replace(run, value=2.0, overwrite=True, action=action), **QUIET)
"""


@pytest.mark.parametrize(("after", "value"), [(-1, 1.0), (0, 2.0), (1, 2.0)])
def test_an_overwrite_that_is_killed_leaves_a_whole_run(run: Trivial, after: int, value: float) -> None:
    """While it computes: the old one. While its files are moved, before the first or the record: the new.

    Covers faults A5.
    """
    base.execute(run, **QUIET)
    script = KILLED.format(root=str(Path(__file__).parents[2]), results=str(run.results_dir), after=after)
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert list(run.results_dir.rglob("record.json")) == [run.directory / "record.json"]
    record = base.execute(replace(run, action=fail), **QUIET)
    assert record.metrics["accuracy"] == whole(run) == value
    assert not list(run.directory.glob(".[uc]*"))


def test_data_that_change_while_the_run_works_are_not_recorded(run: Trivial) -> None:
    base.execute(run, **QUIET)
    data = iter(["before", "after"])
    with pytest.raises(FingerprintError, match=r"changed while the run worked \(fingerprint before, now after\)"):
        base.execute(replace(run, value=2.0, overwrite=True, data=lambda: next(data)), **QUIET)
    assert whole(run) == 1


def test_a_result_that_is_no_result_does_not_replace_one(run: Trivial) -> None:
    base.execute(run, **QUIET)
    (run.directory / ".complete").mkdir()
    (run.directory / ".complete" / "record").write_text("junk")
    base.execute(replace(run, action=fail), **QUIET)
    assert whole(run) == 1
    assert not (run.directory / ".complete").exists()


def test_artefacts_that_a_new_run_does_not_have_are_removed(run: Trivial) -> None:
    base.execute(replace(run, extra=("old.txt",)), **QUIET)
    (run.directory / "run.log").write_text("a log")
    base.execute(replace(run, overwrite=True), **QUIET)
    assert {path.name for path in run.directory.iterdir()} - {".lock"} == {"record.json", "number.txt", "run.log"}


def test_a_record_of_another_configuration_or_seed_is_no_finished_run(run: Trivial) -> None:
    """Covers faults A6."""
    base.execute(run, **QUIET)
    path = run.directory / "record.json"
    content = path.read_text()
    for change in (
        {"seed": 3},
        {"config": {**json.loads(content)["config"], "method": {"name": "method", "option": 2}}},
    ):
        path.write_text(json.dumps(json.loads(content) | change))
        assert base.status(run) == "another run"
        with pytest.raises(OtherRunError, match=r"is of another .*overwrite=true"):
            base.execute(run, **QUIET)
    assert base.execute(replace(run, overwrite=True), **QUIET).seed == 0
    with pytest.raises(FingerprintError, match=r"made from other data \(fingerprint data, now others\)"):
        base.execute(replace(run, data=lambda: "others"), **QUIET)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_text("9.0"), "number.txt has changed"),
        (lambda file: file.write_text(""), "number.txt has changed"),
        (lambda file: file.unlink(), "number.txt is gone"),
    ],
)
def test_a_run_whose_artefact_is_damaged_runs_again(run: Trivial, damage: Callable[[Path], Any], message: str) -> None:
    """Covers faults A6."""
    base.execute(run, **QUIET)
    damage(run.directory / "number.txt")
    assert base.status(run) == "to do"
    messages: list[str] = []
    base.execute(run, say=messages.append)
    assert f"{message}: running it again" in messages[0]
    assert whole(run) == 1


@pytest.mark.parametrize("artifacts", [{}, ["number.txt"]])
def test_a_record_without_digests_is_no_finished_run(run: Trivial, artifacts: object) -> None:
    """Covers faults A6."""
    base.execute(run, **QUIET)
    path = run.directory / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"artifacts": artifacts}))
    assert base.status(run) == "to do"


def test_a_record_of_version_1_says_what_to_do(run: Trivial) -> None:
    base.execute(run, **QUIET)
    path = run.directory / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1, "artifacts": ["number.txt"]}))
    assert base.status(run) == "damaged record"
    with pytest.raises(ValueError, match=r"schema version 1, of an earlier efface.*overwrite=true"):
        base.execute(run, **QUIET)
    base.execute(replace(run, overwrite=True), **QUIET)
    assert whole(run) == 1


def test_the_first_error_is_not_hidden_by_one_of_writing_it_down(run: Trivial, monkeypatch: Any) -> None:
    """Covers faults B2."""
    odd = replace(run, action=fail, config={**run.config, "method": {"name": "m", "lr": math.nan, "grid": [math.inf]}})
    with pytest.raises(RuntimeError, match="singular"):
        base.execute(odd, **QUIET)
    error = Record.read(odd.directory / "error.json")
    assert error.reason == "RuntimeError: singular"
    assert error.config["method"] == {"name": "m", "lr": "nan", "grid": ["inf"]}
    monkeypatch.setattr(base, "write_atomically", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="singular"):
        base.execute(replace(run, action=fail), **QUIET)


def test_a_metric_that_is_not_finite_is_null_with_a_reason(run: Trivial) -> None:
    """Covers faults B2."""
    odd = {"shift": math.inf, "by_group": {"a": math.nan, "b": 1.0}, "null": None}
    record = base.execute(replace(run, metrics=odd), **QUIET)
    assert record.metrics == {"accuracy": 1.0, "shift": None, "by_group": {"a": None, "b": 1.0}, "null": None}
    assert record.info["reasons"] == {"shift": "it is inf"}
    assert record.info["steps"] == [None, 1.0]
    assert Record.read(run.directory / "record.json") == record


def test_a_finished_run_in_a_read_only_folder_is_read(run: Trivial) -> None:
    """Covers faults B4."""
    record = base.execute(run, **QUIET)
    (run.directory / ".lock").unlink()
    with read_only(run.results_dir):
        assert base.execute(replace(run, action=fail), **QUIET) == record
        assert base.status(run) == "done"
        for other in (replace(run, overwrite=True, action=fail), replace(run, seed=1, action=fail)):
            with pytest.raises(OSError, match=r"cannot write to .*: set results_dir="):
                base.execute(other, **QUIET)


class Tracker(NoTracker):
    def __init__(self) -> None:
        self.names: list[str] = []

    def start(self, **facts: Any) -> None:
        self.names.append(facts["name"])


def test_a_run_is_logged_under_what_was_set(run: Trivial) -> None:
    tracker = Tracker()
    for label in ("", "model=mlp"):
        base.execute(replace(run, label=label, tracker=tracker, overwrite=True), **QUIET)
    assert tracker.names == ["method seed=0", "model=mlp seed=0"]


class CutOff(Tracker):
    """One that was killed before it had logged the record."""

    def __init__(self, error: type[Exception] | None = None) -> None:
        super().__init__()
        self.rows: list[Any] = []
        self.records: list[Any] = []
        self.error = error

    def epoch(self, row: Any) -> None:
        self.rows.append(row)

    def finish(self, record: Any) -> None:
        self.records.append(record)
        if self.error is not None:
            raise self.error("offline")

    def is_cut_off(self, directory: Path) -> bool:
        return True


def test_a_finished_run_whose_log_was_cut_off_is_logged_again(run: Trivial) -> None:
    record = base.execute(run, **QUIET)
    tracker = CutOff()
    assert base.execute(replace(run, tracker=tracker, action=fail), **QUIET) == record
    assert tracker.names == ["method seed=0"]
    assert tracker.records == [record]
    with pytest.warns(UserWarning, match="the run is finished, but its logger is not: offline"):
        assert base.execute(replace(run, tracker=CutOff(RuntimeError), action=fail), **QUIET) == record
