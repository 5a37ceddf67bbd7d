"""One job's life, whatever it computes: found finished or done anew, its record written last, its failure kept.

The record is written last and atomically; a job whose record is there with the same data is returned at once, so that
repeating a command resumes it.
"""

import contextlib
import datetime
import platform
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from efface.devices import resolve_device
from efface.files import drop_temporary, lock, write_atomically
from efface.identity import identity, run_id, run_subdir
from efface.record import ERROR, RECORD, Record
from efface.runs.provenance import PeakMemory, commit
from efface.runs.tracking import NoTracker, Tracker


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """What every run has, of whatever kind: its configuration, and where it reads and writes."""

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

    @abstractmethod
    def fingerprint(self) -> str:
        """Of the data files; quick."""

    @abstractmethod
    def record(self, say: Callable[[str], None]) -> Record:
        """Do the work."""


class FingerprintError(RuntimeError):
    """A finished run is there, but of other data."""


def status(run: Run) -> str:
    """`done`, `to do` or `another fingerprint`, without running anything."""
    try:
        return "to do" if _finished(run, say=lambda message: None) is None else "done"
    except FingerprintError:
        return "another fingerprint"


def execute(run: Run, *, say: Callable[[str], None] = print) -> Record:
    """Run, or return the record of a finished run of the same data.

    Raises:
        FingerprintError: a record of other data is there and `overwrite` is off.
        Exception: whatever went wrong; `error.json` then says so, and there is no record.
    """
    directory = run.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = lock(directory / ".lock", say=say, what="this run")
    except OSError as error:
        raise OSError(f"cannot write to {directory} ({error}): set results_dir=... to a folder that can") from error
    with held:
        if not run.overwrite:
            found = _finished(run, say=say)
            if found is not None:
                say(f"{directory} is finished already ({found.status}); overwrite=true runs it again")
                return found
        (directory / RECORD).unlink(missing_ok=True)
        drop_temporary(directory)
        record: Record | None = None
        try:
            record = run.record(say)
            text = record.to_json()
            write_atomically(directory / RECORD, lambda path: path.write_text(text))
        except BaseException as error:
            with contextlib.suppress(Exception):  # what went wrong first is what matters
                run.tracker.finish(None)
            if isinstance(error, Exception):
                _leave_error(run, error)
            raise
        (directory / ERROR).unlink(missing_ok=True)
        try:
            run.tracker.finish(record)
        except Exception as error:  # the run is done and its record is there
            warnings.warn(f"the run is finished, but its logger is not: {error}", stacklevel=2)
        return record


def _finished(run: Run, *, say: Callable[[str], None]) -> Record | None:
    """The record of a finished run; None, and a word on it, if a file that it names is gone."""
    path = run.directory / RECORD
    if not path.is_file():
        return None
    record = Record.read(path)
    fingerprint = run.fingerprint()
    if record.fingerprint != fingerprint:
        raise FingerprintError(
            f"{path} was made from other data (fingerprint {record.fingerprint}, now {fingerprint}): "
            "overwrite=true replaces it, results_dir=... keeps both"
        )
    gone = [name for name in record.artifacts if not (run.directory / name).is_file()]
    if gone:
        say(f"{run.directory} was finished, but {', '.join(gone)} is gone: running it again")
        return None
    return record


def _leave_error(run: Run, error: Exception) -> None:
    record = Record(
        id=run_id(run.config), config=identity(run.config), seed=run.seed, fingerprint=None,
        status="failed", reason=f"{type(error).__name__}: {error}",
        run={"traceback": traceback.format_exc()},
    )  # fmt: skip
    with contextlib.suppress(OSError):  # the disk may be what failed
        write_atomically(run.directory / ERROR, lambda path: path.write_text(record.to_json()))


class Steps:
    """What is kept of every run's steps: how long each took, what the cache had, and under what circumstances."""

    def __init__(self, device: str) -> None:
        self.device = resolve_device(device)
        self.seconds: dict[str, float] = {}
        self.cache_hits: dict[str, bool] = {}

    def _circumstances(self, peak: "PeakMemory") -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "cache_hit": self.cache_hits,
            "peak_memory_bytes": peak.bytes(),
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(self.device),
            "threads": torch.get_num_threads(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "platform": platform.platform(),
            "commit": commit(),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("efface", "torch", "numpy")},
            },
        }

    @contextlib.contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
