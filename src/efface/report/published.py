"""Published numbers, to print beside the measured ones: `published.csv` of an experiment."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from efface.report.labels import Options, parse, same, show

PUBLISHED = "published.csv"
COLUMNS = ("method", "dataset", "metric", "value", "spread", "source", "table", "cell")
_ORIGIN = ("source", "table", "cell")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number, in the units of our metrics.

    `method` and `dataset` are a name and as many options as it needs, `rlace rank=1`: a run is of that method if its
    name is the same and it has those options. Those of a data set may say `model=` and `training=` too. A setting that
    no run here has is an option that no data set has, `regularisation=standard`. Of two sources for the same number,
    the first in a file stands beside ours.
    """

    method: str
    dataset: str
    metric: str
    value: float
    spread: float | None
    source: str
    table: str
    cell: str
    printed: str
    """Value and spread with the digits that the file has."""

    @property
    def text(self) -> str:
        """Where it was published."""
        return ", ".join(filter(None, [self.source, self.table, self.cell]))


def read(path: Path) -> tuple[Published, ...]:
    """Return the numbers of a file.

    Raises:
        OSError: there is no such file.
        ValueError: a column is missing, a value is no finite number, or a number has no source, table or cell; the
            message names file and line.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, but has {reader.fieldnames}")
        numbers = []
        for row in reader:
            try:
                spread = _number(row["spread"]) if row["spread"] else None
                printed = " ± ".join(filter(None, [row["value"], row["spread"]]))
                parsed = {**row, "value": _number(row["value"]), "spread": spread, "printed": printed}
                numbers.append(Published(**parsed))  # type: ignore[arg-type]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}; value and spread are numbers") from error
            for name in _ORIGIN:
                if not row[name].strip():
                    raise ValueError(f"{path}, line {reader.line_num}: no {name}: what has none is not quoted")
    return tuple(numbers)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not finite")
    return number


def is_of(text: str, label: str, options: Options) -> bool:
    """Return whether a run of this label and these options is of the method or data set that a published number names.

    Args:
        text: the name and options that the published number has.
        label: the run's label.
        options: the run's options, shown in the label or not.
    """
    name, _, wanted = text.partition(" ")
    own_name, _, words = label.partition(" ")
    values = parse(words) | {key: show(value) for key, value in options.items()}
    return name == own_name and all(same(values.get(key), value) for key, value in parse(wanted).items())
