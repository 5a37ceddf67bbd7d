"""Confidence intervals for the metrics of one run: percentiles over resamples of the split.

They hold the model fixed: what another seed would change is the spread over seeds in the tables. Efron & Tibshirani,
"An Introduction to the Bootstrap", 1993, chapter 13. Metrics that are a minimum or a square are biased upward or
downward in every resample, and so are their intervals.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

LEVEL = 0.95
_CHUNK = 250


def resamples(n: int, repeats: int, *, cluster: Tensor | None = None, seed: int = 0) -> Iterator[Tensor]:
    """Yield how often each of n samples is drawn, `[n, ≤ 250]` float32 at a time, `repeats` columns in all.

    Args:
        cluster: `[n]`; whole clusters are drawn, with all their samples. None draws samples.
    """
    unit = None if cluster is None else cluster.unique(return_inverse=True)[1].cpu()
    units = n if unit is None else int(unit.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, repeats, _CHUNK):
        columns = min(_CHUNK, repeats - start)
        drawn = torch.randint(units, (units, columns), generator=generator)
        times = torch.zeros(units, columns).scatter_add_(0, drawn, torch.ones(units, columns))
        yield times if unit is None else times[unit]


def sums(values: Tensor, cells: Tensor, n_cells: int, times: Tensor) -> Tensor:
    """Return the sum of `values` `[n]` in each cell, under each resample: `[n_cells, columns]` float32."""
    out = times.new_zeros(n_cells, times.shape[1])
    return out.index_add_(0, cells, times * values.to(times.dtype)[:, None])


def intervals(
    n: int, repeats: int, replicate: Callable[[Tensor], dict[str, Tensor]], *, cluster: Tensor | None = None
) -> dict[str, list[float] | None]:
    """Return the central 95 % of each metric over resamples; None where it is not defined in one in twenty of them.

    Of a single sample or cluster all resamples are alike, which says nothing of how far it is from others: None.

    Args:
        replicate: returns metrics, each `[columns]`, of resamples as `resamples` gives them.

    Cost: repeats · n drawn numbers, and what `replicate` takes.
    """
    units = n if cluster is None else len(cluster.unique())
    parts = [replicate(times) for times in resamples(n, repeats, cluster=cluster)]
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    bounds: dict[str, list[float] | None] = {}
    for name in parts[0]:
        values = torch.cat([part[name] for part in parts]).double()
        known = values[values.isfinite()]
        enough = units > 1 and len(known) > 0.95 * len(values)
        bounds[name] = known.quantile(tails).tolist() if enough else None
    return bounds
