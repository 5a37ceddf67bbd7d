"""The stages of a table: runs → values → marks → columns → cells. Each is a function of what the ones before return."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from efface.metrics.metric import Metric
from efface.report import published
from efface.report.labels import LEVELS, method_order, natural
from efface.report.published import Published
from efface.report.reasons import reason
from efface.report.seeds import Spread, best_and_tied, spread
from efface.report.signs import signed

Column = tuple[str, str]
"""A setting (data set, and model and training where they vary) and a heading."""
Mark = Literal["", "best", "tied"]

EMPTY = "–"
HEAD = "head"
COSTS = {"seconds_method": ("method, s", 2), "peak_memory_mb": ("memory, MB", 0)}
"""What a run took, with digits: seconds of the method alone, without training and evaluation; peak of the whole run."""
_ARROWS = {"higher": " ↑", "lower": " ↓", "zero": " → 0", "one": " → 1", "": ""}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table, and where it comes from."""

    text: str = ""
    mark: Mark = ""
    runs: "tuple[Number, ...]" = ()
    """The numbers that it is made of."""
    note: str = ""
    """Why it is empty; of a published number, its source."""


class Number(NamedTuple):
    """A metric, or a cost, of one run."""

    seed: int
    value: float
    path: str
    """Of the run."""
    low: float = math.nan
    high: float = math.nan
    """Ends of the run's own 95 % interval, over the samples of test; NaN where it has none."""


class Block(NamedTuple):
    """The runs of one setting."""

    setting: str
    runs: pd.DataFrame
    """All, those without metrics included."""
    by_method: Mapping[str, pd.DataFrame]
    """The same by method."""
    done: Mapping[str, pd.DataFrame]
    """The finished ones by method; none where a method has none."""


Place = tuple[str, str, str]
"""A setting, a method's label, and the key of a metric or of a cost."""
Values = Mapping[Place, tuple[Number, ...]]
Quotes = Mapping[Place, Published]


class Slot(NamedTuple):
    """A column before it has cells."""

    setting: str
    title: str
    kind: Literal["head", "metric", "published", "difference", "cost", "count"]
    key: str

    @property
    def column(self) -> Column:
        return self.setting, self.title


def heading(metric: Metric) -> str:
    """Return the metric's heading with the arrow that points to the better side, or to the fair value."""
    return metric.heading + _ARROWS[metric.direction]


def blocks(runs: pd.DataFrame) -> tuple[Block, ...]:
    """Return the runs of each setting; model and training are part of its name only where they vary."""
    named = ["dataset", *(level for level in LEVELS[1:3] if len(set(runs[level])) > 1)]
    groups = {tuple(map(str, key)): group for key, group in runs.groupby(named, sort=False)}
    settings = []
    for key in sorted(groups, key=lambda key: tuple(map(natural, key))):
        group = groups[key]
        every, done = (_by_method(frame) for frame in (group, group[group["status"] == "done"]))
        settings.append(Block(" · ".join(key), group, every, done))
    return tuple(settings)


def _by_method(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(method): frame for method, frame in runs.groupby("method", sort=False)}


def values(settings: Iterable[Block], keys: Sequence[str]) -> Values:
    """Return the values of each metric or cost, by seed; no entry where there are none."""
    table = {
        (block.setting, method, key): numbers_of(frame, key)
        for block in settings
        for method, frame in block.done.items()
        for key in keys
    }
    return {place: numbers for place, numbers in table.items() if numbers}


def numbers_of(frame: pd.DataFrame, key: str) -> tuple[Number, ...]:
    """Return the numbers of the runs that have a value, by seed."""
    if key not in frame:
        return ()
    paths = frame["path"] if "path" in frame else frame["id"] + "/seed=" + frame["seed"].astype(str)
    ends = [frame[name] if name in frame else [math.nan] * len(frame) for name in (f"{key}_low", f"{key}_high")]
    rows = zip(frame["seed"], frame[key], paths, *ends, strict=True)
    return tuple(
        sorted(
            Number(int(seed), float(value), str(path), float(low), float(high))
            for seed, value, path, low, high in rows
            if pd.notna(value)
        )
    )


def quotes(settings: Sequence[Block], numbers: Sequence[Published], keys: Iterable[str]) -> Quotes:
    """Return where each published number stands: beside the runs that it is of, or in a row or column of its own."""
    keys = set(keys)
    places: dict[Place, Published] = {}
    for number in numbers:
        if number.metric not in keys:
            continue
        by_method = {block.setting: _matching(block.runs, "method", number.method) for block in settings}
        by_data = {block.setting: _matching(block.runs, "dataset", number.dataset) for block in settings}
        there = [(s, m) for s, methods in by_method.items() for m in methods if m in by_data[s]]
        if not there:
            method = next((m for methods in by_method.values() for m in methods), number.method)
            there = [(next((s for s, methods in by_data.items() if methods), number.dataset), method)]
        for setting, method in there:
            places.setdefault((setting, method, number.metric), number)
    return places


def comparable(numbers: Iterable[Published], runs: pd.DataFrame) -> tuple[Published, ...]:
    """Return the published numbers of data sets that were run."""
    return tuple(number for number in numbers if _matching(runs, "dataset", number.dataset))


def _matching(runs: pd.DataFrame, level: str, text: str) -> list[str]:
    """Return the methods of the runs whose method or data set a published number names."""
    return [str(run["method"]) for _, run in runs.drop_duplicates(list(LEVELS)).iterrows() if _names(text, level, run)]


def _names(text: str, level: str, run: pd.Series) -> bool:
    options: dict[str, Any] = dict(run.get(f"{level}_options") or {})
    if level == "dataset":
        options |= {other: str(run[other]).partition(" ")[0] for other in ("model", "training")}
    return published.is_of(text, str(run[level]), options)


def incomplete(runs: pd.DataFrame) -> set[str]:
    """Return the methods of which a pool lacks a fold, so that their test data are not those of the others."""
    if "folds" not in runs:
        return set()
    return set(runs.loc[(runs["status"] == "done") & (runs["folds"] < runs["of_folds"]), "method"])


def count_of(group: pd.DataFrame) -> str:
    """Return how many runs of a cell are finished; of pools, of how many folds they are."""
    done = group[group["status"] == "done"]
    text = str(len(done)) if len(done) == len(group) else f"{len(done)} of {len(group)}"
    if "folds" not in done or done["folds"].isna().all():
        return text
    pairs = done[["folds", "of_folds"]].dropna().astype(int).drop_duplicates().itertuples(index=False, name=None)
    kinds = [f"{n}" if n == of_folds else f"{n} of {of_folds}" for n, of_folds in sorted(pairs, reverse=True)]
    return f"{text} × {' or '.join(kinds)} folds"


def marks(numbers: Values, metrics: Iterable[Metric], unmarked: set[str]) -> dict[Place, Mark]:
    """Return which values are the best of their column, or not significantly worse; see `best_and_tied`.

    Args:
        numbers: values.
        metrics: those that have a better side.
        unmarked: methods that are left out.
    """
    marked: dict[Place, Mark] = {}
    for metric in metrics:
        columns: dict[str, dict[str, dict[int, float]]] = {}
        for (setting, method, key), of_runs in numbers.items():
            if key == metric.key and method not in unmarked:
                columns.setdefault(setting, {})[method] = {run.seed: run.value for run in of_runs}
        for setting, by_method in columns.items():
            best, tied = best_and_tied(by_method, metric.direction)
            marked |= {(setting, method, metric.key): "best" for method in best}
            marked |= {(setting, method, metric.key): "tied" for method in tied}
    return marked


def slots(settings: Sequence[Block], metrics: Sequence[Metric], numbers: Values, published: Quotes) -> tuple[Slot, ...]:
    """Return the columns: those of each setting, then settings of which there are published numbers only."""
    measured = {(setting, key) for setting, _, key in numbers}
    quoted = {(setting, key) for setting, _, key in published}
    beside = {(setting, key) for setting, method, key in published if (setting, method, key) in numbers}
    foreign = [s for s in dict.fromkeys(s for s, _, _ in published) if s not in {block.setting for block in settings}]
    columns = []
    says_heads = {block.setting for block in settings if knows_heads(block.runs)}
    for setting in [*(block.setting for block in settings), *foreign]:
        if setting in says_heads:
            columns.append(Slot(setting, HEAD, "head", "head"))
        for metric in metrics:
            place = (setting, metric.key)
            if place in measured:
                columns.append(Slot(setting, heading(metric), "metric", metric.key))
            if place in quoted:
                columns.append(Slot(setting, f"{metric.heading}, published", "published", metric.key))
            if place in beside:
                columns.append(Slot(setting, f"{metric.heading}, difference", "difference", metric.key))
        if setting not in foreign:
            costs = {key: title for key, (title, _) in COSTS.items() if (setting, key) in measured}
            columns += [Slot(setting, title, "cost", key) for key, title in costs.items()]
            columns.append(Slot(setting, "n", "count", ""))
    return tuple(columns)


def methods(runs: pd.DataFrame, published: Quotes) -> dict[str, str]:
    """Return the rows, by the method's label, with its signs; published ones last."""
    ours = sorted(runs["method"].unique(), key=method_order)
    labels = {str(method): signed(str(method), runs[runs["method"] == method]) for method in ours}
    return labels | {m: m for _, m, _ in published if m not in labels}


def knows_heads(runs: pd.DataFrame) -> bool:
    """Return whether the record of a method says what became of the head; without a method it was of course kept."""
    return "head" in runs and bool(runs.loc[runs["method_name"] != "none", "head"].notna().any())


def head_of(done: pd.DataFrame) -> str:
    """Return what became of the head in the runs of one cell, with how many where it is not one thing in all."""
    known = done["head"].dropna().astype(str)
    counts = known.value_counts().sort_index()
    return ", ".join(counts.index if len(counts) < 2 else [f"{head} ({n})" for head, n in counts.items()])


def cells(
    settings: Sequence[Block],
    columns: Sequence[Slot],
    rows: Mapping[str, str],
    numbers: Values,
    marked: Mapping[Place, Mark],
    published: Quotes,
    kind: Spread,
) -> dict[tuple[str, Column], Cell]:
    """Return the cells by row and column; no entry where no run belongs."""
    by_setting = {block.setting: block for block in settings}
    table = {}
    for slot in columns:
        for method, row in rows.items():
            place = (slot.setting, method, slot.key)
            if slot.kind in ("published", "difference"):
                cell = _quoted(slot, numbers.get(place, ()), published.get(place))
            else:
                cell = _measured(by_setting[slot.setting], slot, method, numbers.get(place, ()), kind)
            if cell is not None:
                mark = marked.get(place, "") if slot.kind == "metric" else ""
                table[row, slot.column] = Cell(text=cell.text, mark=mark, runs=cell.runs, note=cell.note)
    return table


def _measured(block: Block, slot: Slot, method: str, of_runs: tuple[Number, ...], kind: Spread) -> Cell | None:
    group = block.by_method.get(method)
    if group is None:
        return None
    done = block.done.get(method)
    if slot.kind == "count":
        return Cell(text=count_of(group))
    if slot.kind == "head":
        return None if done is None else Cell(text=head_of(done))
    if of_runs:
        return Cell(text=number(of_runs, COSTS[slot.key][1] if slot.kind == "cost" else 3, kind), runs=of_runs)
    if done is None:
        return Cell(text=EMPTY, note="; ".join(why for _, why in unfinished(group)))
    return Cell(text=EMPTY, note=reason(done, slot.key)) if slot.kind == "metric" else None


def unfinished(group: pd.DataFrame) -> list[tuple[list[int], str]]:
    """Return seeds and reasons of the runs that are not done."""
    not_done = group[group["status"] != "done"]
    if len(not_done) == 0:
        return []
    open_runs = not_done.groupby(["status", "reason"], dropna=False)
    return [
        (sorted(runs["seed"]), f"{str(status).replace('_', ' ')}: {' '.join(str(why).split())}")
        for (status, why), runs in open_runs
    ]


def _quoted(slot: Slot, of_runs: tuple[Number, ...], quote: Published | None) -> Cell | None:
    if quote is None:
        return None
    if slot.kind == "published":
        text = f"{quote.value:.3f}" + (f" ± {quote.spread:.3f}" if quote.spread is not None else "")
        return Cell(text=text, note=quote.text)
    if not of_runs:
        return None
    difference = float(np.mean([run.value for run in of_runs])) - quote.value
    return Cell(text=f"{difference:+.3f}".replace("-", "−"), note=quote.text)


def number(of_runs: Sequence[Number], digits: int, kind: Spread) -> str:
    """Return the mean over runs, behind `±` their spread if there are several, and their own interval in brackets.

    The bracket holds the half-width of the 95 % interval of one run over the samples of test, its mean over runs. It is
    not added to the spread: runs share the test samples, so that no number of seeds makes it smaller. What rounds to
    nothing, such as a covariance of 2e-7, is shown with its power of ten.
    """
    values = np.array([run.value for run in of_runs])
    mean, reach, within = float(values.mean()), spread(values, kind), half_width_within(of_runs)
    fixed = digits < 3 or mean == 0 or max(abs(mean), reach) >= 0.5 * 10**-digits

    def text(part: float) -> str:
        return f"{part:.{digits}f}" if fixed else f"{part:.0e}" if part else "0"

    words = text(mean) + (f" ± {text(reach)}" if len(values) > 1 else "")
    words += "" if within is None else f" [±{text(within)}]"
    return words.replace("-", "−").replace("e−0", "e−")


def half_width_within(of_runs: Sequence[Number]) -> float | None:
    """Return half the width of a run's interval over the samples of test, its mean over runs; None without any."""
    widths = [(run.high - run.low) / 2 for run in of_runs if not math.isnan(run.high - run.low)]
    return float(np.mean(widths)) if widths else None
