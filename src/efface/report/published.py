"""Published figures, to print beside the measured ones: `published.csv` of an experiment."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.report.labels import parse

PUBLISHED = "published.csv"
COLUMNS = ("method", "dataset", "metric", "value", "spread", "source", "table", "cell")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published figure, in the units of our metrics: fractions of 1 and bits.

    `method` and `dataset` are a name and as many options as it needs, `rlace rank=1`: a run is of that method if its
    name is the same and it has those options. Those of a data set may say `model=` and `training=` too.
    """

    method: str
    dataset: str
    metric: str
    value: float
    spread: float | None
    source: str
    table: str
    cell: str

    @property
    def text(self) -> str:
        """Where it stands."""
        return ", ".join(filter(None, [self.source, self.table, self.cell]))


def read(path: Path) -> tuple[Published, ...]:
    """The figures of a file; none if there is no file.

    Raises:
        ValueError: a column is missing or a value is no number; the message names file and line.
    """
    if not path.is_file():
        return ()
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, but has {reader.fieldnames}")
        figures = []
        for row in reader:
            try:
                spread = float(row["spread"]) if row["spread"] else None
                figures.append(Published(**{**row, "value": float(row["value"]), "spread": spread}))  # type: ignore[arg-type]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}; value and spread are numbers") from error
            if not row["source"]:
                raise ValueError(f"{path}, line {reader.line_num}: no source: what has none is not quoted")
    return tuple(figures)


def is_of(text: str, label: Any, given: str) -> bool:
    """Whether a run's label and options are of the method or data set that a published figure names by `text`."""
    name, _, rest = text.partition(" ")
    own, _, shown = str(label).partition(" ")
    has = parse(shown) | parse(given)
    return name == own and all(_same(has.get(key), value) for key, value in parse(rest).items())


def _same(one: str | None, other: str) -> bool:
    try:
        return one is not None and float(one) == float(other)
    except ValueError:
        return one == other
