"""One table of runs: a row for each method, columns data set × metric, metrics over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from efface.metrics import METRICS, suggestion
from efface.metrics.metric import Metric
from efface.report import cells as stages
from efface.report import words
from efface.report.cells import COSTS, Cell, Column, heading
from efface.report.labels import LEVELS
from efface.report.published import Published
from efface.report.seeds import FEWEST, Spread

__all__ = ["Cell", "Column", "Table", "build", "heading"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells, with what a reader must know to read them."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: dict[tuple[str, Column], Cell] = field(repr=False)
    caption: tuple[str, ...]
    """Sentences: how to read it."""
    definitions: tuple[str, ...]
    """Sentences: what each metric in it is."""
    notes: tuple[str, ...]
    """Why cells are empty, what failed, what is hard to compare; each is one line."""

    def cell(self, row: str, column: Column) -> Cell:
        """Return the cell there; an empty one where no run belongs."""
        return self.cells.get((row, column), Cell())


def build(
    runs: pd.DataFrame,
    *,
    single: pd.DataFrame | None = None,
    published: Sequence[Published] = (),
    metrics: Iterable[str] | None = None,
    kind: Spread = "std",
    failures: Sequence[str] = (),
) -> Table:
    """Return the table of a tidy frame of runs, see `efface.report.records.collect`.

    Args:
        runs: the frame, the folds of one configuration and seed in one row.
        single: the same with a row for each fold, of which circumstances are told; `runs` if None.
        published: numbers to print beside ours, with the difference.
        metrics: keys of the metrics to show, in this order; all that have a value if None.
        kind: what stands behind a mean: the standard deviation over seeds, or the half-width of the mean's interval.
        failures: runs that failed, for the notes.

    Raises:
        ValueError: a metric is unknown.
    """
    chosen = _chosen(runs, published, metrics)
    keys = [metric.key for metric in chosen]
    settings = stages.blocks(runs)
    numbers = stages.values(settings, [*keys, *COSTS])
    quotes = stages.quotes(settings, published, keys)
    unmarked = set(runs.loc[runs["uses_attribute_at_test"], "method"]) | stages.incomplete(runs)
    marks = stages.marks(numbers, chosen, unmarked)
    columns = stages.slots(settings, chosen, numbers, quotes)
    rows = stages.methods(runs, quotes)
    single = runs if single is None else single
    names = [", ".join(sorted({str(label).partition(" ")[0] for label in runs[level]})) for level in LEVELS[:3]]
    tested = any(len(of_runs) >= FEWEST and place in marks for place, of_runs in numbers.items())
    return Table(
        title=" · ".join(names),
        rows=tuple(rows.values()),
        columns=tuple(slot.column for slot in columns),
        cells=stages.cells(settings, columns, rows, numbers, marks, quotes, kind),
        caption=words.caption(runs, columns, numbers, single=single, tested=tested, kind=kind),
        definitions=words.definitions(chosen, columns),
        notes=words.notes(runs, settings, chosen, numbers, columns, failures, single=single),
    )


def _chosen(runs: pd.DataFrame, published: Sequence[Published], keys: Iterable[str] | None) -> list[Metric]:
    known = {metric.key: metric for metric in METRICS}
    quoted = {number.metric for number in published}
    for key in sorted(quoted):
        known.setdefault(key, Metric(key, key.replace("_", " "), "as published", "", ""))
    if keys is None:
        return [metric for metric in known.values() if metric.key in runs or metric.key in quoted]
    wanted = list(keys)
    unknown = [key for key in wanted if key not in known]
    if unknown:
        raise ValueError(
            f"metrics: there is no {', '.join(unknown)}; there are {', '.join(known)}{suggestion(unknown[0], known)}"
        )
    return [known[key] for key in wanted]
