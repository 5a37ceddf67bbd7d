"""How a benchmark is timed, and what it returns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    ours: float
    """Seconds."""
    theirs: float | None
    """Seconds; None where there is nothing to compare with."""
    other: str
    note: str = ""
    recorded_ratio: float | None = None
    """Of results whose seconds are known to three digits only: the ratio that was taken before they were rounded."""
    peak_bytes: int | None = None
    """Peak memory, where it was measured."""

    @property
    def ratio(self) -> float | None:
        """Theirs over ours: above 1, ours is faster."""
        if self.recorded_ratio is not None or self.theirs is None:
            return self.recorded_ratio
        return self.theirs / self.ours


@dataclass(frozen=True)
class Section:
    """One run of a benchmark."""

    rows: tuple[Row, ...]
    made: str
    """The machine, the versions and the commit."""


def seconds(call: Callable[[], object], repeat: int = 5) -> float:
    """Return the median over `repeat` calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
