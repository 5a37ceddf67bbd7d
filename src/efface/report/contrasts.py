"""A second table, of pools of folds: each method minus the base model, on the same samples."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from efface.metrics import METRICS
from efface.metrics.metric import Metric
from efface.report.cells import Block, Cell, Column, Number, blocks, methods, numbers_of
from efface.report.folds import DIFFERENCE
from efface.report.predictions import RESAMPLES
from efface.report.seeds import Spread, spread
from efface.report.signs import AT_TEST, LEGEND
from efface.report.table import Table

_CAPTION = (
    "Method minus none on the samples that both predict, and in brackets the ends of its 95 % interval: percentiles "
    f"over {RESAMPLES} resamples of whole people, or of samples where no people are known, the same for both, with all "
    "models held fixed. Where 0 lies within, these samples do not tell the two apart."
)
_SIGNED = "Of metrics that are fair at 0 or 1, the values as they are, not their distances to it, are subtracted."
_OVER = {
    "std": "Over seeds: mean ± standard deviation, and the means of both ends.",
    "interval": "Over seeds: mean ± half-width of its 95 % t interval, and the means of both ends.",
}


def build(runs: pd.DataFrame, *, metrics: Sequence[str] | None = None, kind: Spread = "std") -> Table | None:
    """Return the table of the pools among the runs; None where no method stands beside its base model.

    Args:
        runs: a tidy frame, the folds of one configuration and seed in one row.
        metrics: keys of the metrics to show, in this order; all that have a value if None.
        kind: what stands behind a mean over seeds.
    """
    known = {metric.key: metric for metric in METRICS}
    chosen = [known[key] for key in (known if metrics is None else metrics) if f"{key}{DIFFERENCE}" in runs]
    settings = blocks(runs)
    table = {place: cell for block in settings for place, cell in _cells(block, chosen, kind).items()}
    if not table:
        return None
    # Labels without the other signs: how runs were made, and chosen, is said below the table of metrics.
    at_test = set(runs.loc[runs["uses_attribute_at_test"], "method"])
    rows = {method: f"{method} {AT_TEST}" if method in at_test else method for method in methods(runs, {})}
    signs = [f"{AT_TEST} {LEGEND[AT_TEST].partition(',')[0]}."] if any(row in at_test for row, _ in table) else []
    columns = dict.fromkeys((block.setting, _heading(m)) for block in settings for m in chosen)
    filled = {column for _, column in table}
    signed = any(metric.direction in ("zero", "one") for metric in chosen)
    several = len(set(runs["seed"])) > 1
    return Table(
        title="Difference to the base model",
        rows=tuple(name for method, name in rows.items() if any(method == row for row, _ in table)),
        columns=tuple(column for column in columns if column in filled),
        cells={(rows[method], column): cell for (method, column), cell in table.items()},
        caption=(_CAPTION, *([_SIGNED] if signed else []), *([_OVER[kind]] if several else []), *signs),
        definitions=(),
        notes=(),
    )


def _heading(metric: Metric) -> str:
    arrow = {"higher": " ↑", "lower": " ↓"}.get(metric.direction, "")
    return f"Δ {metric.heading}{arrow}"


def _cells(block: Block, metrics: Sequence[Metric], kind: Spread) -> dict[tuple[str, Column], Cell]:
    """Return the cells of one setting by row and column."""
    return {
        (method, (block.setting, _heading(metric))): Cell(text=_text(numbers, kind), runs=numbers)
        for method, done in block.done.items()
        for metric in metrics
        if (numbers := numbers_of(done, f"{metric.key}{DIFFERENCE}"))
    }


def _text(numbers: Sequence[Number], kind: Spread) -> str:
    """Return the mean over runs, their spread if there are several, and the ends of the interval, means over runs."""
    values = np.array([number.value for number in numbers])
    reach = f" ± {spread(values, kind):.3f}" if len(values) > 1 else ""
    ends = [float(np.mean([getattr(number, end) for number in numbers])) for end in ("low", "high")]
    within = "" if np.isnan(ends).any() else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
    return f"{values.mean():+.3f}{reach}{within}".replace("-", "−")
