"""How a benchmark is timed, and the row that it yields."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` is theirs over ours: above 1, ours is faster."""

    what: str
    ours: float
    theirs: float | None
    """Seconds; None where there is nothing to compare with."""
    other: str
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.theirs is None else self.theirs / self.ours


def seconds(call: Callable[[], object], repeat: int = 5) -> float:
    """Median over `repeat` calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
