"""Tables on the page of an experiment, written from its runs between two markers.

    <!-- table: rows=method method=none,leace dataset.bias_ratio=0.99 metrics=unbiased_accuracy,seconds_method,n -->
    ...
    <!-- /table -->

`rows` names what tells the rows apart and `metrics` the columns: metrics, other numbers of `runs.csv`, and `n`, how
many runs are finished, or pools of how many folds. Of folds, `<metric>_difference` is the metric minus that of the base
model. Every other word is a condition, `name=value,value`; rows stand in the order of its values. A
name is a level (`method`), one of its options (`dataset.bias_ratio`), or a column of `runs.csv`; `name:heading` gives a
column another heading, with `_` for blanks.

Where the runs say whether the head was kept or fitted, a column for it comes by itself, unless the marker names `head`;
so do notes below the table on folds, brackets and signs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from efface.files import write_atomically
from efface.metrics import METRICS
from efface.report.cells import (
    COSTS,
    EMPTY,
    HEAD,
    count_of,
    half_width_within,
    head_of,
    heading,
    knows_heads,
    number,
    numbers_of,
)
from efface.report.folds import DIFFERENCE
from efface.report.labels import LEVELS, method_order, natural, same, show
from efface.report.nearest import with_neighbours
from efface.report.published import Published
from efface.report.quoted import with_quotes
from efface.report.records import Collection
from efface.report.render import pipes, plain
from efface.report.signs import LEGEND, footnotes, signed
from efface.report.words import WITHIN, folds_in_words, missing_folds

PAGE = "README.md"
_TABLE = re.compile(r"(<!-- table: (?P<words>[^>]*?) -->\n).*?(<!-- /table -->)", re.DOTALL)
_HEADINGS = (
    {metric.key: heading(metric) for metric in METRICS}
    | {f"{metric.key}{DIFFERENCE}": f"{metric.heading}, minus none" for metric in METRICS}
    | {key: title for key, (title, _) in COSTS.items()}
    | {"seconds_training": "training, s", "rank": "directions removed"}
)
_DIFFERENCES = frozenset(f"{metric.key}{DIFFERENCE}" for metric in METRICS)
_PAIRED = (
    "Minus none: on the samples that both predict. [± …] is then of the difference, under the same resamples for both."
)
_DIGITS = {"seconds_method": 2, "seconds_training": 0, "peak_memory_mb": 0, "rank": 0, "retrained": 0}


class _Spec(NamedTuple):
    """What a marker asks for."""

    words: str
    rows: dict[str, str]
    """Headings by name."""
    metrics: dict[str, str]
    conditions: dict[str, tuple[str, ...]]


def write_tables(page: Path, collection: Collection, numbers: Sequence[Published] = ()) -> None:
    """Write the tables between the markers of a page; a page that does not exist, or is right, is left alone.

    Args:
        page: of an experiment.
        collection: its runs.
        numbers: published ones, of which those tables are that `efface.report.quoted` writes.

    Raises:
        ValueError: a marker is not understood, or asks for a table that would pool two ids or two published numbers.
    """
    if not page.is_file():
        return
    text, name = page.read_text(encoding="utf-8"), str(page)
    new = with_tables(text, collection.tabled, name=name)
    new = with_quotes(new, numbers, name=name)
    new = with_neighbours(new, collection.runs, collection.neighbours, name=name)
    if new != text:
        write_atomically(page, lambda path: path.write_text(new, encoding="utf-8"))


def with_tables(text: str, runs: pd.DataFrame, *, name: str = PAGE) -> str:
    """Return a page's text with the tables between its markers made anew; see `write_tables`."""

    def made(match: re.Match[str]) -> str:
        try:
            return f"{match.group(1)}{_table(_spec(match['words']), runs)}\n{match.group(3)}"
        except ValueError as error:
            raise ValueError(f"{name}, table: {match['words']}: {error}") from error

    if text.count("<!-- table:") != len(_TABLE.findall(text)):
        raise ValueError(f"{name}: each <!-- table: ... --> needs a <!-- /table --> below it")
    return _TABLE.sub(made, text)


def _spec(words: str) -> _Spec:
    pairs = [word.partition("=") for word in words.split()]
    wanted = {name: value for name, _, value in pairs}
    if not wanted.get("rows") or not wanted.get("metrics"):
        raise ValueError("name rows=... and metrics=..., with commas")
    conditions = {name: tuple(value.split(",")) for name, value in wanted.items() if name not in ("rows", "metrics")}
    return _Spec(words, _named(wanted["rows"]), _named(wanted["metrics"]), conditions)


def _named(text: str) -> dict[str, str]:
    """Return the headings of the names in `name,name:heading`."""
    named = {}
    for part in text.split(","):
        name, _, title = part.partition(":")
        last = name.partition(".")[2] or name
        named[name] = (title or _HEADINGS.get(name, last)).replace("_", " ")
    return named


def _table(spec: _Spec, runs: pd.DataFrame) -> str:
    meets = [all(_meets(run, name, values) for name, values in spec.conditions.items()) for _, run in runs.iterrows()]
    runs = runs[pd.Series(meets, index=runs.index, dtype=bool)]
    if len(runs) == 0:
        raise ValueError("no run meets the conditions")
    keys = pd.Series([tuple(_value(run, name) for name in spec.rows) for _, run in runs.iterrows()], index=runs.index)
    columns = {
        **({HEAD: HEAD} if knows_heads(runs) and HEAD not in (*spec.rows, *spec.metrics) else {}),
        **spec.metrics,
    }
    lines, groups = [], {}
    for key in sorted(keys.unique(), key=lambda key: _order(spec, key)):
        group = runs[keys == key]
        ids = sorted(set(group["id"]))
        if len(ids) > 1:
            raise ValueError(f"the row {', '.join(key)} would pool ids {', '.join(ids)}: name another option in rows")
        words = [_word(name, word) for name, word in zip(spec.rows, key, strict=True)]
        groups[", ".join(filter(None, words))] = group
        named = list(spec.rows).index("method") if "method" in spec.rows else 0
        words[named] = signed(words[named], group)
        lines.append([*words, *(_cell(group, name) for name in columns)])
    below = _below(groups, columns)
    return pipes([*spec.rows.values(), *columns.values()], lines) + "".join(f"\n\n{note}" for note in below)


def _below(groups: Mapping[str, pd.DataFrame], columns: Iterable[str]) -> list[str]:
    """Return what a reader must know of the folds, brackets and signs of a table, one paragraph for each."""
    metrics = set(columns) - {HEAD}
    pooled = folds_in_words(pd.concat(groups.values()), metrics)
    paragraphs = [" ".join(pooled)] if pooled else []
    lacking = [f"{row}, {why}" for row, group in groups.items() for why in missing_folds(group)]
    if lacking:
        paragraphs.append(f"Of fewer samples than the others, for want of folds: {plain('; '.join(lacking))}.")
    if metrics & _DIFFERENCES:
        paragraphs.append(_PAIRED)
    if any(half_width_within(numbers_of(group, name)) is not None for group in groups.values() for name in metrics):
        paragraphs.append(WITHIN)
    notes = {row: footnotes(group) for row, group in groups.items()}
    for sign, meaning in LEGEND.items():
        if any(sign in note for note in notes.values()):
            of_rows = "; ".join(f"{row}, {note[sign]}" for row, note in notes.items() if note.get(sign))
            paragraphs.append(f"{sign} {meaning}{': ' if of_rows else ''}{plain(of_rows)}.")
    return paragraphs


def _word(name: str, word: str) -> str:
    return f"`{plain(word)}`" if name in LEVELS else plain(word)


def _meets(run: pd.Series, name: str, values: Iterable[str]) -> bool:
    value = _value(run, name)
    return any(same(value, wanted) for wanted in values)


def _value(run: pd.Series, name: str) -> str:
    """Return what a run has under a name, as text: a level's name without options, an option, or a column."""
    level, _, option = name.partition(".")
    if level in LEVELS and not option:
        return str(run[level]).partition(" ")[0]
    if option and f"{level}_options" in run:
        options = run[f"{level}_options"]
        return show(options[option]) if option in options else ""
    if name not in run:
        raise ValueError(f"there is no {name}: name a level ({', '.join(LEVELS)}), an option of one, or a column")
    return "" if pd.isna(run[name]) else show(run[name])


def _order(spec: _Spec, key: tuple[str, ...]) -> list[object]:
    """Return what sorts rows: the order in which conditions name values, else the natural one."""
    order: list[object] = []
    for name, value in zip(spec.rows, key, strict=True):
        listed = spec.conditions.get(name, ())
        place = next((i for i, each in enumerate(listed) if same(value, each)), len(listed))
        order.append((place, method_order(value) if name == "method" else natural(value)))
    return order


def _cell(group: pd.DataFrame, name: str) -> str:
    done = group[group["status"] == "done"]
    if name == "n":
        return count_of(group)
    if name == HEAD:
        return (head_of(done) if HEAD in done else "") or EMPTY
    if name not in group:
        raise ValueError(f"there is no metric {name}")
    of_runs = numbers_of(done, name)
    if not of_runs:
        return EMPTY
    if name == "rank":
        return ", ".join(show(rank) for rank in sorted({run.value for run in of_runs}))
    return number(of_runs, _DIGITS.get(name, 3), "std")
