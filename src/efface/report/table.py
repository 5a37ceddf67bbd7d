"""One table of runs: a row for each method, columns data set × metric, figures over seeds."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from efface.metrics import METRICS, Metric
from efface.report import published as published_figures
from efface.report.labels import LEVELS, differences, method_order, natural
from efface.report.published import Published
from efface.report.records import flags
from efface.report.seeds import FEWEST, Spread, best_and_tied, spread

Column = tuple[str, str]
"""A setting (data set, and model and training where they vary) and a heading."""

EMPTY = "–"
COSTS = {"seconds_method": ("method, s", 2), "peak_memory_mb": ("memory, MB", 0)}
"""What a run took, with digits: seconds of the method alone, without training and evaluation; peak of the whole run."""
_ARROWS = {"higher": " ↑", "lower": " ↓", "zero": " → 0", "one": " → 1", "": ""}
_QUOTED = ("published", "difference")
"""How headings of published columns end."""
_UNKNOWN = "the records do not say why"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table, and where it comes from."""

    text: str = ""
    mark: Literal["", "best", "tied"] = ""
    runs: tuple[tuple[int, float, str], ...] = ()
    """Seed, value and path of each run in it."""
    note: str = ""
    """Why it is empty; of a published figure, its source."""


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
    """Why cells are empty, what failed, what is hard to compare."""

    def cell(self, row: str, column: Column) -> Cell:
        """The cell there; an empty one where no run belongs."""
        return self.cells.get((row, column), Cell())


def heading(metric: Metric) -> str:
    """With the arrow that points to the better side, or to the fair value."""
    return metric.heading + _ARROWS[metric.direction]


def build(
    runs: pd.DataFrame,
    *,
    published: Sequence[Published] = (),
    metrics: Iterable[str] | None = None,
    kind: Spread = "std",
    failures: Sequence[str] = (),
) -> Table:
    """The table of a tidy frame of runs, see `efface.report.records.collect`.

    Args:
        runs: the frame.
        published: figures to print beside ours, with the difference.
        metrics: keys of the metrics to show, in this order; all that have a value if None.
        kind: what stands behind a mean: the standard deviation, or the bootstrap interval, over seeds.
        failures: runs that failed, to be told in the notes.

    Raises:
        ValueError: a metric is unknown.
    """
    return _Builder(runs, published, _chosen(runs, published, metrics), kind).table(failures)


def _chosen(runs: pd.DataFrame, published: Sequence[Published], keys: Iterable[str] | None) -> list[Metric]:
    known = {metric.key: metric for metric in METRICS}
    for key in (figure.metric for figure in published):
        known.setdefault(key, Metric(key, key.replace("_", " "), "as published", "", ""))
    if keys is None:
        return [metric for metric in known.values() if metric.key in runs or _in(published, metric.key)]
    wanted = list(keys)
    unknown = [key for key in wanted if key not in known]
    if unknown:
        raise ValueError(f"metrics: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[key] for key in wanted]


def _in(published: Sequence[Published], key: str) -> bool:
    return any(figure.metric == key for figure in published)


class _Builder:
    """Collects cells, columns and notes on the way from runs to a table."""

    def __init__(self, runs: pd.DataFrame, published: Sequence[Published], metrics: list[Metric], kind: Spread) -> None:
        self.runs, self.published, self.metrics, self.kind = runs, published, metrics, kind
        self.varying = [level for level in LEVELS[1:3] if len(set(runs[level])) > 1]
        marked = set(runs.loc[runs["uses_attribute_at_test"], "method"])
        self.rows = {m: f"{m} †" if m in marked else str(m) for m in sorted(runs["method"].unique(), key=method_order)}
        self.cells: dict[tuple[str, Column], Cell] = {}
        self.columns: list[Column] = []
        self.notes: list[str] = []
        self.gaps: list[tuple[str, str, str, str]] = []
        self.tested = False
        self.quoted: set[Published] = set()

    def table(self, failures: Sequence[str]) -> Table:
        runs = self.runs
        settings = runs.groupby(["dataset", *self.varying], sort=False)
        named = {tuple(map(str, key)): group for key, group in settings}
        for key in sorted(named, key=lambda key: tuple(map(natural, key))):
            self._setting(" · ".join(key), named[key])
        self._only_published()
        self.notes += _gap_notes(self.gaps)
        self.notes += differences(runs)
        self.notes += [f"flagged: {flag}" for flag in flags(runs)]
        self.notes += [f"failed, not in the table: {failure}" for failure in failures]
        names = [", ".join(sorted({str(label).partition(" ")[0] for label in runs[level]})) for level in LEVELS[:3]]
        return Table(
            title=" · ".join(names), rows=tuple(self.rows.values()), columns=tuple(self.columns), cells=self.cells,
            caption=self._caption(), definitions=self._definitions(), notes=tuple(self.notes),
        )  # fmt: skip

    def _setting(self, setting: str, group: pd.DataFrame) -> None:
        finished = group[group["status"] == "done"]
        done = {str(method): of for method, of in finished.groupby("method", sort=False)}
        for metric in self.metrics:
            self._metric(setting, group, done, metric)
        for key, (title, digits) in COSTS.items():
            if key in finished and finished[key].notna().any():
                self.columns.append((setting, title))
                for method, frame in done.items():
                    self._put(method, (setting, title), _values(frame, key), digits)
        column = (setting, "n")
        self.columns.append(column)
        for name, all_ in group.groupby("method", sort=False):
            method = str(name)
            n = len(done.get(method, ()))
            text = str(n) if n == len(all_) else f"{n} of {len(all_)}"
            self.cells[self.rows[method], column] = Cell(text=text)
            if n == len(all_):
                continue
            for (status, reason), gone in all_[all_["status"] != "done"].groupby(["status", "reason"], dropna=False):
                seeds = ", ".join(map(str, sorted(gone["seed"])))
                why = f"{str(status).replace('_', ' ')}: {' '.join(str(reason).split())}"
                self.notes.append(f"{setting} / {method}, seed {seeds}: {why}")
                if n == 0:
                    for other in self.columns:
                        if other[0] == setting and other != column and not other[1].endswith(_QUOTED):
                            self.cells[self.rows[method], other] = Cell(text=EMPTY, note=why)

    def _metric(self, setting: str, group: pd.DataFrame, done: dict[str, pd.DataFrame], metric: Metric) -> None:
        values = {method: _values(frame, metric.key) for method, frame in done.items()}
        quoted = {method: self._quoted(method, group, metric.key) for method in group["method"].unique()}
        column = (setting, heading(metric))
        if not any(values.values()) and not any(quoted.values()):
            if metric.key in group and done:
                self.gaps.append((setting, "no", metric.heading, _reason(pd.concat(done.values()), metric.key)))
            return
        self.columns.append(column)
        best, tied = best_and_tied(
            {m: {seed: value for seed, value, _ in v} for m, v in values.items() if "†" not in self.rows[m]},
            metric.direction,
        )
        self.tested |= bool(best) and any(len(v) >= FEWEST for v in values.values())
        for method, found in values.items():
            if found:
                self._put(method, column, found, 3, "best" if method in best else "tied" if method in tied else "")
            else:
                reason = _reason(done[method], metric.key)
                self.cells[self.rows[method], column] = Cell(text=EMPTY, note=reason)
                self.gaps.append((setting, f"{EMPTY} under", metric.heading, reason))
        if any(quoted.values()):
            self._put_published(setting, metric, quoted, values)

    def _put(
        self, method: str, column: Column, runs: Sequence[tuple[int, float, str]], digits: int, mark: Any = ""
    ) -> None:
        if not runs:
            return
        text = _text(np.array([value for _, value, _ in runs]), digits, self.kind)
        self.cells[self.rows[method], column] = Cell(text=text, mark=mark, runs=tuple(runs))

    def _quoted(self, method: str, group: pd.DataFrame, key: str) -> Published | None:
        of = [figure for figure in self.published if figure.metric == key]
        if not of:
            return None
        first = group[group["method"] == method].iloc[0]
        for level in ("method", "dataset"):
            of = [figure for figure in of if _names(getattr(figure, level), level, first)]
        self.quoted |= set(of)
        return of[0] if of else None

    def _put_published(self, setting: str, metric: Metric, quoted: dict[str, Published | None], values: Any) -> None:
        theirs, difference = (setting, f"{metric.heading}, published"), (setting, f"{metric.heading}, difference")
        self.columns += [theirs, difference]
        for method, figure in quoted.items():
            if figure is None:
                continue
            self.cells[self.rows[method], theirs] = Cell(text=_quote(figure), note=figure.text)
            if found := values.get(method):
                off = float(np.mean([value for _, value, _ in found])) - figure.value
                self.cells[self.rows[method], difference] = Cell(text=f"{off:+.3f}".replace("-", "−"), note=figure.text)

    def _only_published(self) -> None:
        """Published figures of methods or data sets that were not run: a row or a column of their own."""
        shown = {metric.key: metric for metric in self.metrics}
        for figure in self.published:
            if figure in self.quoted or figure.metric not in shown:
                continue
            methods, datasets = self._runs_of("method", figure.method), self._runs_of("dataset", figure.dataset)
            name = methods[0] if methods else figure.method
            self.rows.setdefault(name, figure.method)
            ours = (s for s, _ in self.columns if s.split(" · ")[0] in datasets[:1])
            setting = next(ours, figure.dataset)
            column = (setting, f"{shown[figure.metric].heading}, published")
            if column not in self.columns:
                last = max((i for i, (s, _) in enumerate(self.columns) if s == setting), default=len(self.columns) - 1)
                self.columns.insert(last + 1, column)
            self.cells[self.rows[name], column] = Cell(text=_quote(figure), note=figure.text)

    def _runs_of(self, level: str, text: str) -> list[str]:
        """Labels of a level that a published figure names."""
        of = self.runs.drop_duplicates(list(LEVELS))
        return [run[level] for _, run in of.iterrows() if _names(text, level, run)]

    def _caption(self) -> tuple[str, ...]:
        over = {
            "std": "mean ± standard deviation over n seeds",
            "interval": "mean and 95 % percentile bootstrap interval over n seeds",
        }[self.kind]
        marks = "Bold: the best mean (nearest to 0 or 1 where the arrow says so)"
        if self.tested:
            marks += (
                "; underlined: not significantly worse than it (two-sided paired t-test over the seeds that both have, "
                f"Holm-corrected within the column, 5 %, tested where they share {FEWEST} seeds or more)"
            )
        sentences = [
            f"All figures are on the test split, which no method and no selection saw; {over}.",
            f"{marks}.",
            "The model of the last epoch is kept, unless the training names a metric on val; methods fit on train or "
            "on the pairs, never on test.",
        ]
        if self.runs["uses_attribute_at_test"].any():
            sentences.append("† uses the protected attribute at test time, and is left out when the best is marked.")
        if any(title.endswith("published") for _, title in self.columns):
            sentences.append("Published: as printed in the source; difference: ours minus published.")
        return tuple(sentences)

    def _definitions(self) -> tuple[str, ...]:
        shown = {title for _, title in self.columns}
        of = [metric for metric in self.metrics if heading(metric) in shown]
        return tuple(
            f"{m.heading[0].upper()}{m.heading[1:]}: {m.formula}{f' ({m.source})' if m.source else ''}." for m in of
        )


def _values(frame: pd.DataFrame, key: str) -> list[tuple[int, float, str]]:
    if key not in frame:
        return []
    paths = frame["path"] if "path" in frame else frame["id"] + "/seed=" + frame["seed"].astype(str)
    found = zip(frame["seed"].tolist(), frame[key].tolist(), paths.tolist(), strict=True)
    return sorted((int(seed), float(value), str(path)) for seed, value, path in found if pd.notna(value))


def _names(text: str, level: str, run: pd.Series) -> bool:
    """Whether a published figure's method or data set is that of a run; a data set may say `model=` and `training=`."""
    given = str(run.get(f"{level}_options") or "")
    if level == "dataset":
        given += "".join(f" {other}={str(run[other]).partition(' ')[0]}" for other in ("model", "training"))
    return published_figures.is_of(text, run[level], given)


def _reason(done: pd.DataFrame, key: str) -> str:
    """Why a metric has no value, as a run says it."""
    if "reasons" in done:
        for text in done["reasons"].dropna():
            if key in (told := json.loads(text)):
                return str(told[key])
    return _UNKNOWN


def _gap_notes(gaps: Iterable[tuple[str, str, str, str]]) -> list[str]:
    """One line for all metrics that lack a value in the same settings for the same reason."""
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for setting, kind, name, reason in gaps:
        places.setdefault((kind, name, reason), {})[setting] = None
    names: dict[tuple[str, str, str], list[str]] = {}
    for (kind, name, reason), settings in places.items():
        names.setdefault((", ".join(settings), kind, reason), []).append(name)
    return [f"{where}: {kind} {'; '.join(of)}: {reason}" for (where, kind, reason), of in names.items()]


def _text(values: np.ndarray, digits: int, kind: Spread) -> str:
    mean = float(values.mean())
    below, above = spread(values, kind)
    # What rounds to nothing, such as a covariance of 2e-7, is given its power of ten.
    form = f".{digits}f" if digits < 3 or mean == 0 or max(abs(mean), below, above) >= 0.5 * 10**-digits else ".0e"
    text = f"{mean:{form}}"
    if len(values) > 1:
        text += f" ± {below:{form}}" if kind == "std" else f" [{mean - below:{form}}, {mean + above:{form}}]"
    return text.replace("-", "−").replace("e−0", "e−")


def _quote(figure: Published) -> str:
    return f"{figure.value:.3f}" + (f" ± {figure.spread:.3f}" if figure.spread is not None else "")
