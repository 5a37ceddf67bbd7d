"""Figures over seeds: means, spreads and intervals, and which methods are not significantly worse than the best."""

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

Spread = Literal["std", "interval"]

LEVEL = 0.95
RESAMPLES = 2000
ALPHA = 0.05
FEWEST = 5
"""Seeds that two methods must share to be compared."""


def interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `values` `[n]`, at level 0.95; the same at every call."""
    means = np.sort(values[_draws(len(values))].mean(1))
    tail = (1 - LEVEL) / 2
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))


@functools.cache
def _draws(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, n, size=(RESAMPLES, n))


def spread(values: np.ndarray, kind: Spread) -> tuple[float, float]:
    """How far below and above its mean a figure reaches: one standard deviation, or to the ends of the interval."""
    if len(values) < 2:
        return 0.0, 0.0
    if kind == "std":
        return (float(values.std(ddof=1)),) * 2
    low, high = interval(values)
    mean = float(values.mean())
    return mean - low, high - mean


def best_and_tied(by_row: Mapping[Any, Mapping[int, float]], direction: str) -> tuple[set[Any], set[Any]]:
    """The rows of the best mean, and those not significantly worse.

    Each other row is compared with the best by a two-sided paired t-test over the seeds that both have, if they are at
    least `FEWEST`; the p-values of a column are corrected by Holm's method at 5 %. Rows with fewer common seeds are
    neither.

    Args:
        by_row: a figure by row and seed.
        direction: `higher` or `lower` is better, or what is nearer to `zero` or `one`.
    """
    rows = [row for row, values in by_row.items() if values]
    if len(rows) < 2 or not direction:
        return set(), set()
    fair = {"zero": 0.0, "one": 1.0}.get(direction)
    if fair is not None:
        by_row = {row: {seed: abs(value - fair) for seed, value in by_row[row].items()} for row in rows}
    sign = 1 if direction == "higher" else -1
    means = {row: sign * float(np.mean(list(by_row[row].values()))) for row in rows}
    top = max(means.values())
    best = [row for row in rows if means[row] >= top - 1e-12 * max(1, abs(top))]
    against = by_row[best[0]]
    compared = {}
    for row in rows:
        seeds = sorted(set(against) & set(by_row[row]))
        if row not in best and len(seeds) >= FEWEST:
            compared[row] = paired_t(np.array([against[s] - by_row[row][s] for s in seeds]))
    return set(best), set(compared) - holm(compared)


def paired_t(differences: np.ndarray) -> float:
    """The two-sided p-value of a t-test of the mean of `differences` `[n]` against 0."""
    from scipy.special import stdtr

    n, mean, std = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    if std <= 1e-12 * max(1.0, abs(mean)):
        return 1.0 if abs(mean) <= 1e-12 else 0.0
    return float(2 * stdtr(n - 1, -abs(mean) / std * math.sqrt(n)))


def holm(p_values: Mapping[Any, float]) -> set[Any]:
    """The hypotheses that Holm's step-down method rejects at family-wise level 5 %."""
    rejected: set[Any] = set()
    for i, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > ALPHA / (len(p_values) - i):
            break
        rejected.add(name)
    return rejected
