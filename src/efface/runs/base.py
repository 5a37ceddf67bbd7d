"""What every run is, whatever it computes: resumed or done anew, recorded as a whole, its failure written down.

A record that is there, of the same configuration, seed and data, and with the artefacts that it names, is returned at
once, so that repeating a command resumes it.
"""

import contextlib
import math
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from efface.files import lock, require_writable, write_atomically
from efface.identity import identity, run_id, run_subdir
from efface.record import ERROR, RECORD, Record
from efface.runs import directory as results
from efface.runs.session import Session
from efface.runs.tracking import NoTracker, Tracker


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the steps of a run leave for its record."""

    not_applicable: str | None = None
    """Why the method cannot run on these data; nothing else is then set."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """On test."""
    metrics_ci: dict[str, Any] = field(default_factory=dict)
    val_metrics: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a metric on test is null."""
    val_reasons: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    writers: results.Writers = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """What every run has, of whatever kind: its configuration, and where it reads and writes."""

    packages: ClassVar[tuple[str, ...]] = ("efface", "torch", "numpy")
    """Those whose versions are recorded."""
    required_artifacts: ClassVar[tuple[str, ...]] = ()
    """Files without which no run of this kind is finished."""

    config: Mapping[str, Any]
    """Resolved nodes of the identity, as plain containers."""
    tracker: Tracker = field(default_factory=NoTracker)
    seed: int = 0
    device: str = "auto"
    data_dir: Path = Path("data")
    cache_dir: Path = Path("cache")
    results_dir: Path = Path("results")
    overwrite: bool = False
    progress: bool = True
    label: str = ""
    """What a person set, as the run's name where it is logged; the method's name if empty."""

    @property
    def directory(self) -> Path:
        """Where the run leaves its files."""
        return self.results_dir / run_subdir(self.config, self.seed)

    @property
    def uses_attribute_at_test(self) -> bool:
        """Whether the method needs the protected attribute of a sample that it debiases."""
        return False

    @property
    def model_packages(self) -> tuple[str, ...]:
        """Packages that hold the code of the base model, beside those of every run of this kind."""
        return ()

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest of all files that the run reads; quick."""

    @abstractmethod
    def compute(self, session: Session) -> Outcome:
        """Take the steps from data to metrics, and write nothing: `execute` does."""

    def model_key(self, fingerprint: str) -> dict[str, Any]:
        """Return what determines the base model, for the cache's key."""
        nodes = {node: identity(self.config)[node] for node in ("dataset", "model", "training")}
        return {**nodes, "seed": self.seed, "fingerprint": fingerprint}


class OtherRunError(RuntimeError):
    """A finished run is there, but of another configuration or seed."""


class FingerprintError(OtherRunError):
    """A finished run is there, but of other data; or the data changed while the run worked."""


def status(run: Run) -> str:
    """Return `done`, `to do`, `another fingerprint`, `another run` or `damaged record`, without running anything."""
    try:
        return "to do" if _finished(run, say=lambda message: None) is None else "done"
    except FingerprintError:
        return "another fingerprint"
    except OtherRunError:
        return "another run"
    except ValueError:
        return "damaged record"


def execute(run: Run, *, say: Callable[[str], None] = print) -> Record:
    """Run, or return the record of a finished run of the same data.

    Raises:
        OtherRunError: a record of another run or of other data is there, and `overwrite` is off.
        Exception: whatever went wrong; `error.json` then says so, and what was finished before still is.
    """
    if not run.directory.is_dir():
        require_writable(run.directory, option="results_dir")
    with lock(run.directory / ".lock", say=say, what="this run"):
        results.complete(run.directory)
        record = None if run.overwrite else _finished(run, say=say)
        if record is not None:
            say(f"{run.directory} is finished already ({record.status}); overwrite=true runs it again")
            if run.tracker.is_cut_off(run.directory):
                with _logger_may_fail():
                    _follow(run)
                    for row in record.info.get("training", {}).get("history", []):
                        run.tracker.epoch(row)
                    run.tracker.finish(record)
            return record
        require_writable(run.directory, option="results_dir")
        results.clear(run.directory)
        try:
            record = _run(run, say)
        except BaseException as error:
            with contextlib.suppress(Exception):  # what went wrong first is what matters
                run.tracker.finish(None)
            if isinstance(error, Exception):
                _leave_error(run, error)
            raise
        (run.directory / ERROR).unlink(missing_ok=True)
        with _logger_may_fail():
            run.tracker.finish(record)
        return record


@contextlib.contextmanager
def _logger_may_fail() -> Iterator[None]:
    """Within this context an error becomes a warning: the run is done and its record is there."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"the run is finished, but its logger is not: {error}", stacklevel=4)


def _follow(run: Run) -> None:
    run.tracker.start(
        config={**run.config, "seed": run.seed},
        name=f"{run.label or run.config['method']['name']} seed={run.seed}",
        group=str(run_subdir(run.config, run.seed).parent),
        directory=run.directory,
    )


def _run(run: Run, say: Callable[[str], None]) -> Record:
    _follow(run)
    fingerprint = run.fingerprint()
    session = Session(device=run.device, cache_dir=run.cache_dir, tracker=run.tracker, progress=run.progress, say=say)
    outcome = run.compute(session)
    now = run.fingerprint()
    if now != fingerprint:
        raise FingerprintError(
            f"the data changed while the run worked (fingerprint {fingerprint}, now {now}): nothing is recorded; "
            "repeat the command"
        )

    def record_of(artifacts: dict[str, str | None]) -> Record:
        return Record(
            id=run_id(run.config),
            config=identity(run.config),
            seed=run.seed,
            fingerprint=fingerprint,
            artifacts=artifacts,
            run=session.circumstances((*run.packages, *run.model_packages)),
            **_content(run, outcome),
        )

    return results.publish(run.directory, outcome.writers, record_of)


def _content(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Return the fields of a record that an outcome fills, with null for each number that is NaN or infinite.

    One such number is no reason to lose a run. Where a metric is null, its reason says what it was.
    """
    if outcome.not_applicable is not None:
        return {"status": "not_applicable", "reason": outcome.not_applicable}
    reasons, val_reasons = (
        {name: f"it is {value}" for name, value in metrics.items() if _not_finite(value)} | known
        for metrics, known in ((outcome.metrics, outcome.reasons), (outcome.val_metrics, outcome.val_reasons))
    )
    about = {"reasons": reasons, "val_reasons": val_reasons, "uses_attribute_at_test": run.uses_attribute_at_test}
    return {
        "status": "done",
        "metrics": _replaced(outcome.metrics, by=_null),
        "metrics_ci": _replaced(outcome.metrics_ci, by=_null),
        "val_metrics": _replaced(outcome.val_metrics, by=_null),
        "info": _replaced({**outcome.info, **about}, by=_null),
    }


def _finished(run: Run, *, say: Callable[[str], None]) -> Record | None:
    """Return the record of a finished run; None, with a message on why, if an artefact is not as it was."""
    path = run.directory / RECORD
    if not path.is_file():
        return None
    record = Record.read(path)
    ways_out = "overwrite=true replaces it, results_dir=... keeps both"
    if record.config != identity(run.config) or record.seed != run.seed:
        what = "configuration" if record.seed == run.seed else f"seed, {record.seed}"
        raise OtherRunError(f"{path} is of another {what}: it was moved or edited, or its id is shared; {ways_out}")
    fingerprint = run.fingerprint()
    if record.fingerprint != fingerprint:
        raise FingerprintError(
            f"{path} was made from other data (fingerprint {record.fingerprint}, now {fingerprint}): {ways_out}"
        )
    damages = results.damages(run.directory, record, run.required_artifacts)
    if damages:
        say(f"{run.directory} was finished, but {', '.join(damages)}: running it again")
        return None
    return record


def _leave_error(run: Run, error: Exception) -> None:
    with contextlib.suppress(Exception):  # the disk may be what failed, or the configuration; what went first matters
        record = Record(
            id=run_id(run.config),
            config=_replaced(identity(run.config), by=str),
            seed=run.seed,
            fingerprint=None,
            status="failed",
            reason=f"{type(error).__name__}: {error}",
            run={"traceback": traceback.format_exc()},
        )
        write_atomically(run.directory / ERROR, lambda path: path.write_text(record.to_json()))
        error.add_note(f"The run's configuration and the traceback are in {run.directory / ERROR}")


def _null(value: float) -> None:
    return None


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _replaced(value: Any, *, by: Callable[[float], Any]) -> Any:
    """Return the same containers with every number that is NaN or infinite replaced."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, by=by) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, by=by) for item in value]
    return by(value) if _not_finite(value) else value
