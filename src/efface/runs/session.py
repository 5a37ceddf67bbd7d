"""What one execution of a run shares with the run's steps: device, cache, clocks, and where it is followed."""

import contextlib
import datetime
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface import cache
from efface.devices import resolve_device
from efface.runs.provenance import PeakMemory, commit, processor
from efface.runs.tracking import Tracker

UNTRAINED = "training.epochs=0: the base model is as it was initialised, and its own head has learned nothing"


class Session:
    """One execution of a run.

    Args:
        device: see `efface.devices.resolve_device`.
        cache_dir: of `efface.cache`.
        tracker: follows the run.
        progress: whether to show progress bars.
        say: called with messages to a person.
    """

    def __init__(
        self, *, device: str, cache_dir: Path, tracker: Tracker, progress: bool, say: Callable[[str], None]
    ) -> None:
        self.device = resolve_device(device)
        self.progress = progress
        self.say = say
        self.seconds: dict[str, float] = {}
        """How long each step took; of a cached model, `training` is what it took when it was trained."""
        self._cache_dir = cache_dir
        self._cache_hits: dict[str, bool] = {}
        self._tracker = tracker
        self._peak = PeakMemory(self.device)

    @contextlib.contextmanager
    def clock(self, step: str) -> Iterator[None]:
        """Within this context the time counts as that of a step, which may be taken in parts."""
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start

    def cached(self, kind: str, key: Mapping[str, Any], build: Callable[[], cache.Entry]) -> cache.Entry:
        """Return an entry of the cache, as `efface.cache.cached`, and note whether it was there."""
        tensors, facts, hit = cache.cached(self._cache_dir, kind, key, build, say=self.say)
        self._cache_hits.setdefault(kind, hit)
        return tensors, facts

    def trained(self, history: Iterable[Mapping[str, float]], seconds: float) -> None:
        """Note how the base model was trained, now or when it was put into the cache."""
        self.seconds["training"] = seconds
        for row in history:
            self._tracker.epoch(row)

    def circumstances(self, packages: Iterable[str]) -> dict[str, Any]:
        """Return all that may differ when the run is repeated, with the versions of some packages."""
        return {
            "seconds": self.seconds,
            "cache_hit": self._cache_hits,
            "peak_memory_bytes": self._peak.bytes(),
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(self.device),
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "platform": platform.platform(),
            "commit": commit(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        }


def require_finite(tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Check that numbers are finite before they are taken for a result.

    Raises:
        FloatingPointError: some are NaN or infinite: training has diverged.
    """
    names = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if names:
        listed = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        raise FloatingPointError(
            f"training diverged: {what} has NaN or infinite values in {listed}; lower training.lr, or check the inputs"
        )
