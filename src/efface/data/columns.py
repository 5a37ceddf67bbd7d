"""What columns of a table mean: which is the target, which are protected, whose rows belong together, which split is
whose. One place for all data sets that are described by their columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from efface.data.base import (
    SPLITS,
    Dataset,
    Split,
    flip_pairs,
    matched_pairs,
    require_every_class,
    require_two_attributes,
)
from efface.data.frames import FILE_SPLIT, TableFiles, require_columns
from efface.data.groups import groups
from efface.data.labels import label_name, require_distinct, require_several
from efface.data.splits import Ratios, dealt_parts, named_parts, require_shares
from efface.data.text import closest, some
from efface.options import Len, options

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES, MOST_NUMBERS = 100, 20
"""Values that a target or an attribute may have, and those of an attribute that is a number."""


@dataclass(frozen=True)
class Labels:
    """What the columns say of each row."""

    y: Tensor
    """`[n]` int64."""
    a: Tensor
    """`[n]` int64."""
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    cluster: Tensor | None
    """`[n]` int64; None if all rows are independent."""
    parts: dict[str, Tensor]
    """Rows of each split."""

    def at(self, rows: Tensor) -> dict[str, Any]:
        """Return y, a and cluster of some rows, as fields of a split."""
        return {"y": self.y[rows], "a": self.a[rows], "cluster": None if self.cluster is None else self.cluster[rows]}


@options
class LabelColumns:
    """The columns of a table that every data set described by columns names.

    Args:
        target: what the model predicts. Numbers or words; the classes are named by them.
        positive: one value of the target: the task is then whether a row has it. None for all values.
        protected: one or more columns of a few values; of several, each combination that occurs is an attribute.
        people: the column of identities; rows of one person are never in two splits, nor apart in a probe.
        split: the column that names the split: train, val, pairs and test, or 0, 1 and 2 for train, val and test. A
            table without pairs has its val halved into val and pairs. None to deal the rows out in shares.
        ratios: shares of train, val, pairs and test, where no column says so.
    """

    target: str
    positive: str | int | float | bool | None = None
    protected: Annotated[Sequence[str], Len(1)]
    people: str | None = None
    split: str | None = None
    ratios: Ratios = (0.6, 0.1, 0.1, 0.2)

    def __post_init__(self) -> None:
        require_shares(self.ratios)
        if self.target in self.protected:
            raise ValueError(
                f"protected is {list(self.protected)}, and the target is {self.target!r} too: what is to be predicted "
                "cannot be erased; name another column"
            )
        used = self.used
        twice = sorted({name for name in used if used.count(name) > 1})
        if twice:
            raise ValueError(f"target, protected, people, split: {some(twice)} is named twice; each is one column")

    @property
    def used(self) -> list[str]:
        """All columns that are named."""
        return [self.target, *self.protected, *(name for name in (self.people, self.split) if name is not None)]

    def require(self, frame: "pd.DataFrame", source: object, **others: Sequence[str]) -> None:
        """Check that the table has the columns; `others` are further ones by option."""
        single = {"target": self.target, "people": self.people, "split": self.split}
        named = {option: [name] for option, name in single.items() if name is not None}
        require_columns(frame, {**named, "protected": list(self.protected), **others}, source)

    def labels(self, frame: "pd.DataFrame", source: object) -> Labels:
        """Number the values of the columns, and find the rows of each split.

        Raises:
            ValueError: a column cannot be what it is said to be; the message names the option, and what to do.
        """
        for option, name in [("target", self.target), *(("protected", name) for name in self.protected)]:
            require_complete(frame[name], option, source)
        y, classes = self._target(frame[self.target], source)
        a, attributes = self._attributes(frame, source)
        cluster = None
        if self.people is not None:
            require_complete(frame[self.people], "people", source)
            cluster = torch.from_numpy(frame[self.people].factorize(sort=True)[0].astype(np.int64))
        parts = self._parts(frame, source, groups(y, a, len(attributes)), cluster)
        return Labels(y, a, classes, attributes, cluster, parts)

    def _target(self, column: "pd.Series[Any]", source: object) -> tuple[Tensor, tuple[str, ...]]:
        """Number the classes."""
        what = f"target: column {self.target!r} of {source}"
        if self.positive is None:
            return value_codes(column, what, MOST_VALUES, "name one value with dataset.positive=..., or bin it")
        y, names = value_codes(column, what, len(column), "")
        wanted = label_name(self.positive)
        if wanted not in names:
            raise ValueError(
                f"positive is {wanted!r}, but {what} holds no such value: did you mean {closest(wanted, names)}?"
            )
        other = names[1 - names.index(wanted)] if len(names) == 2 else f"not {wanted}"
        return (y == names.index(wanted)).long(), (other, wanted)

    def _attributes(self, frame: "pd.DataFrame", source: object) -> tuple[Tensor, tuple[str, ...]]:
        """Number the combinations of protected values that occur, the first column's value counting most."""
        code, names = torch.zeros(len(frame), dtype=torch.int64), [""]
        for column in self.protected:
            most = MOST_NUMBERS if _is_number(frame[column]) else MOST_VALUES
            way_out = "bin it into a few ranges first, or name a column of groups"
            b, values = value_codes(frame[column], f"protected: column {column!r} of {source}", most, way_out)
            if len(self.protected) > 1 and _is_number(frame[column]):
                values = tuple(f"{column}={value}" for value in values)
            code = code * len(values) + b
            names = [f"{name}, {value}" if name else value for name in names for value in values]
        occurring, a = code.unique(return_inverse=True)
        if len(occurring) > MOST_VALUES:
            raise ValueError(
                f"protected is {list(self.protected)}, which have {len(occurring)} combinations in {source}, but may "
                f"have {MOST_VALUES}: name fewer columns, or merge values"
            )
        return a, tuple(names[i] for i in occurring.tolist())

    def _parts(
        self, frame: "pd.DataFrame", source: object, strata: Tensor, cluster: Tensor | None
    ) -> dict[str, Tensor]:
        """Find the rows of each split, by a column or a file that names it, or by shares."""
        column = self.split if self.split is not None else FILE_SPLIT if FILE_SPLIT in frame else None
        if column is None:
            shares = dict(zip(SPLITS, self.ratios, strict=True))
            return dealt_parts(strata, shares, torch.Generator().manual_seed(0), cluster)
        require_complete(frame[column], "split", source)
        names = np.array([label_name(value) for value in frame[column]])
        what = f"split: column {column!r} of {source}"
        return named_parts(names, what, strata=strata, ratios=self.ratios, cluster=cluster)


@options
class FileTable(LabelColumns):
    """A table in files, with its columns.

    Args:
        path: a file; or one by split, `{train: a.csv, val: b.csv, test: c.csv}`, patterns such as `train-*.parquet`
            included. Looked for where it says, then below `data_dir`.
        missing_values: strings that stand for a missing value, such as `?`, beside those that pandas knows.
        separator: between the fields of a CSV file.
    """

    origin: ClassVar[str] = ""
    """Where the files come from, for the message if they are not there."""

    path: str | Mapping[str, str]
    missing_values: Sequence[str] = ("?",)
    separator: str = ","

    def files(self, data_dir: Path) -> TableFiles:
        """Find the files; FileNotFoundError if one is not there."""
        return TableFiles.find(self.path, data_dir, hint=self.origin)

    def read(self, files: TableFiles) -> "pd.DataFrame":
        """Read them into one table."""
        return files.read(separator=self.separator, missing_values=self.missing_values)


def assembled(splits: dict[str, Split], labels: Labels, source: object, *, flippable: bool, **facts: Any) -> Dataset:
    """Assemble a data set of its splits; its pairs are rows under another attribute, or two rows of one label.

    Args:
        splits: by name.
        labels: of all rows.
        source: of the data, for messages.
        flippable: whether a row can be shown under another attribute.
        facts: further fields of `Dataset`.

    Raises:
        ValueError: train, val or test lacks a class, or train has fewer than two attributes.
    """
    require_every_class({name: splits[name] for name in ("train", "val", "test")}, labels.classes)
    require_two_attributes(splits["train"], labels.attributes, source)
    generator = torch.Generator().manual_seed(0)
    pairs = {
        name: flip_pairs(splits[name], len(labels.attributes), generator)
        if flippable
        else matched_pairs(splits[name], generator)
        for name in ("val", "pairs", "test")
    }
    about = {"classes": labels.classes, "attributes": labels.attributes, "flippable": flippable}
    return Dataset.from_parts(splits, pairs, **about, **facts)


def value_codes(column: "pd.Series[Any]", what: str, most: int, way_out: str) -> tuple[Tensor, tuple[str, ...]]:
    """Number the values of a column 0 … K − 1, numbers by size and words by the alphabet; return them, and their names.

    Args:
        column: without missing values.
        what: the column is, for messages.
        most: values that it may have.
        way_out: what to do where it has more.

    Raises:
        ValueError: it holds one value only, or more than `most`, or an infinite number.
    """
    if _is_number(column):
        numbers = column.to_numpy(dtype=np.float64)
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise ValueError(f"{what} holds {numbers[row]} in row {row}, but must hold finite numbers")
        values, codes = np.unique(numbers, return_inverse=True)
        names = [label_name(value) for value in values]
    else:
        words = column.astype(str).to_numpy(dtype=object)
        names = sorted(set(words), key=lambda word: (word.casefold(), word))
        number = {name: i for i, name in enumerate(names)}
        codes = np.array([number[word] for word in words])
    if len(names) > most:
        raise ValueError(
            f"{what} holds {len(names):,} different values, {some(names, 3)}, but may hold {most}: {way_out}"
        )
    require_several(names, what)
    require_distinct(names, what)
    return torch.from_numpy(codes.astype(np.int64)), tuple(names)


def _is_number(column: "pd.Series[Any]") -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(column) and not is_bool_dtype(column)


def require_complete(column: "pd.Series[Any]", option: str, source: object) -> None:
    """Check that no value is missing."""
    gaps = np.flatnonzero(column.isna().to_numpy())
    if len(gaps):
        raise ValueError(
            f"{option}: column {column.name!r} of {source} has no value in {len(gaps):,} of {len(column):,} rows, the "
            f"first of them row {gaps[0]}: leave those rows out, or give them a value of their own, such as 'unknown'"
        )
