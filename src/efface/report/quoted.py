"""Tables of published numbers on the page of an experiment, written from its `published.csv` between two markers.

    <!-- published: rows=method,method.rank columns=dataset.model metrics=bits_per_byte table=Table_1 -->
    ...
    <!-- /published -->

`rows` names what tells the rows apart, `columns` the columns, the metric if it is not given, and `metrics` the metrics.
Every other word is a condition, `name=value,value`. A name is `method`, `dataset`, one of their options
(`dataset.model`), or a column of the file; `name:heading` gives a column another heading. A `_` in a heading or a
condition stands for a blank. Rows and columns stand in the order of the values of a condition, else of the file.

Numbers are as in the file, and sources stand below the table. Whatever a page quotes is written so: then nothing is
quoted that has no source.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from efface.metrics import METRICS
from efface.report.cells import EMPTY, heading
from efface.report.labels import parse, same
from efface.report.published import COLUMNS, Published
from efface.report.render import pipes, plain

_MARKED = re.compile(r"(<!-- published: (?P<words>[^>]*?) -->\n).*?(<!-- /published -->)", re.DOTALL)
_HEADINGS = {metric.key: heading(metric) for metric in METRICS}
_WITH_OPTIONS = ("method", "dataset")

Key = tuple[str, ...]


class _Spec(NamedTuple):
    """What a marker asks for."""

    rows: dict[str, str]
    """Headings by name."""
    columns: tuple[str, ...]
    conditions: dict[str, tuple[str, ...]]
    """Values by name, the metrics among them."""


def with_quotes(text: str, numbers: Sequence[Published], *, name: str) -> str:
    """Return a page's text with the tables of published numbers between its markers made anew.

    Args:
        text: of the page.
        numbers: those of the experiment.
        name: of the page, for messages.

    Raises:
        ValueError: a marker has no end, is not understood, or asks for a table with two numbers in one cell.
    """

    def made(match: re.Match[str]) -> str:
        try:
            return f"{match.group(1)}{_table(_spec(match['words']), numbers)}\n{match.group(3)}"
        except ValueError as error:
            raise ValueError(f"{name}, published: {match['words']}: {error}") from error

    if text.count("<!-- published:") != len(_MARKED.findall(text)):
        raise ValueError(f"{name}: each <!-- published: ... --> needs a <!-- /published --> below it")
    return _MARKED.sub(made, text)


def _spec(words: str) -> _Spec:
    wanted = parse(words)
    if not wanted.get("rows") or not wanted.get("metrics"):
        raise ValueError("name rows=... and metrics=..., with commas")
    rows = {}
    for part in wanted.pop("rows").split(","):
        name, _, title = part.partition(":")
        rows[name] = (title or name.partition(".")[2] or name).replace("_", " ")
    columns = tuple(wanted.pop("columns", "metric").split(","))
    conditions = {"metric": wanted.pop("metrics"), **wanted}
    return _Spec(rows, columns, {name: tuple(values.split(",")) for name, values in conditions.items()})


def _table(spec: _Spec, numbers: Sequence[Published]) -> str:
    for name in (*spec.rows, *spec.columns, *spec.conditions):
        if name not in COLUMNS and name.partition(".")[0] not in _WITH_OPTIONS:
            raise ValueError(
                f"there is no {name}: name one of {', '.join(COLUMNS)}, or method.<option>, dataset.<option>"
            )
    chosen = [number for number in numbers if _meets(number, spec.conditions)]
    if not chosen:
        raise ValueError("no number of published.csv meets the conditions")
    cells: dict[tuple[Key, Key], Published] = {}
    for number in chosen:
        place = _key(number, spec.rows), _key(number, spec.columns)
        if place in cells:
            raise ValueError(
                f"row {_words(place[0])}, column {_words(place[1])} would hold both {cells[place].text} and "
                f"{number.text}: name another option in rows or columns, or a condition"
            )
        cells[place] = number
    rows = _ordered((row for row, _ in cells), tuple(spec.rows), spec)
    columns = _ordered((column for _, column in cells), spec.columns, spec)
    lines = [
        [
            *map(_shown, spec.rows, row),
            *(cells[row, each].printed if (row, each) in cells else EMPTY for each in columns),
        ]
        for row in rows
    ]
    headings = [", ".join(filter(None, map(_shown, spec.columns, column))) for column in columns]
    return f"{pipes([*spec.rows.values(), *headings], lines)}\n\nSource: {plain(_sources(chosen))}."


def _sources(numbers: Iterable[Published]) -> str:
    """Return the sources, each with the tables of it that numbers are from."""
    tables: dict[str, dict[str, None]] = {}
    for number in numbers:
        tables.setdefault(number.source, {})[number.table] = None
    return "; ".join(", ".join([source, *names]) for source, names in tables.items())


def _meets(number: Published, conditions: dict[str, tuple[str, ...]]) -> bool:
    return all(_rank(_value(number, name), values) < len(values) for name, values in conditions.items())


def _rank(value: str, values: Sequence[str]) -> int:
    """Return the place of a value among those of a condition, and their number if it is none of them."""
    return next(
        (i for i, each in enumerate(values) if same(value, each) or value.replace(" ", "_") == each), len(values)
    )


def _ordered(keys: Iterable[Key], names: Sequence[str], spec: _Spec) -> list[Key]:
    """Return distinct keys by the order in which conditions name their values, else that of the file."""
    conditions = [spec.conditions.get(name, ()) for name in names]
    return sorted(dict.fromkeys(keys), key=lambda key: [_rank(*pair) for pair in zip(key, conditions, strict=True)])


def _key(number: Published, names: Iterable[str]) -> Key:
    return tuple(_value(number, name) for name in names)


def _value(number: Published, name: str) -> str:
    """Return what a number has under a name: a method or data set without options, an option, or a column."""
    level, _, option = name.partition(".")
    text = str(getattr(number, level))
    if level not in _WITH_OPTIONS:
        return text
    label, _, words = text.partition(" ")
    return parse(words).get(option, "") if option else label


def _shown(name: str, value: str) -> str:
    if name == "metric":
        return _HEADINGS.get(value, value.replace("_", " "))
    return f"`{plain(value)}`" if name == "method" else plain(value)


def _words(key: Key) -> str:
    return ", ".join(filter(None, key))
