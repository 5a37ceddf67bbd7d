"""Your own table: a CSV, parquet or feather file, described by its columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from efface.data.base import Dataset, Split, TensorSplit
from efface.data.column_kinds import column_kinds
from efface.data.columns import FileTable, Labels, assembled
from efface.data.frames import FILE_SPLIT
from efface.data.labels import label_name
from efface.data.preprocessing import Column, fit_preprocessing
from efface.extras import require
from efface.options import Ge, options

if TYPE_CHECKING:
    import pandas as pd

_SHARE, _FEWEST, _MOST = 100, 10, 100
"""By default a category needs a hundredth of the rows of train, but no fewer than 10 and no more than 100."""


@dataclass(frozen=True)
class TableSplit(TensorSplit):
    """Rows of one split of a table, encoded; x is `[n, d]` float32."""

    columns: tuple[str, ...] = ()
    """`[d]`: what the columns of x are."""
    attribute_columns: tuple[int, ...] = ()
    """Columns of x that hold the attribute; none if it is no input."""
    attribute_values: Tensor | None = None
    """`[n_attributes, len(attribute_columns)]`: what they hold under each attribute."""
    target: str = "y"
    classes: tuple[str, ...] = ()
    indicators: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Columns of x that AIF360 is to know as protected, with the names of their values 0 and 1."""

    def inputs(self, rows: Tensor, *, a: Tensor | None = None, device: str | torch.device = "cpu") -> Tensor:
        """Return `[len(rows), d]`; with `a`, the same rows with that attribute and all other columns unchanged.

        A husband whose sex is changed stays a husband.
        """
        if a is None or self.attribute_values is None:
            return super().inputs(rows, a=a, device=device)
        x = self.x[rows]
        x[:, list(self.attribute_columns)] = self.attribute_values[a]
        return x.to(device)

    def aif360(self) -> Any:
        """Return the split as AIF360's `BinaryLabelDataset`: features x, labels y, protected columns, weights 1.

        Raises:
            ValueError: the task has more than two classes, or no protected column of two values is an input.
        """
        require("aif360", extra="adult", what="split.aif360()")
        import pandas as pd
        from aif360.datasets import BinaryLabelDataset

        if len(self.classes) != 2 or not self.indicators:
            raise ValueError(
                f"AIF360 knows two classes and protected columns of two values, but there are {len(self.classes)} "
                f"classes and {len(self.indicators)} such columns"
            )
        frame = pd.DataFrame(self.x.double().numpy(), columns=list(self.columns), index=self.index.tolist())
        frame[self.target] = self.y.double().numpy()
        maps = [dict(enumerate(values)) for values in self.indicators.values()]
        return BinaryLabelDataset(
            df=frame,
            label_names=[self.target],
            protected_attribute_names=list(self.indicators),
            metadata={"label_maps": [dict(enumerate(self.classes))], "protected_attribute_maps": maps},
        )


@options
class Table(FileTable):
    """A table of rows with a target, protected columns and others, from CSV, parquet or feather files.

    All other columns are inputs: numbers imputed and standardised, booleans and words of two values 0 or 1, other words
    one-hot, with the rare ones merged, all by train. Dates, free text, identifiers and empty columns are refused until
    `drop` names them.

    Where protected columns are inputs, a counterfactual pair is a row with these columns changed, and all others as
    they are. Otherwise pairs are two rows of one label and different attributes.

    Args:
        path, missing_values, separator: see `FileTable`.
        drop: columns that are no inputs, such as names, dates and weights.
        protected_inputs: whether the protected columns are inputs too.
        missing: `impute` numbers by the median and categories by the most frequent one in train, or `drop` rows in
            which a used column has no value.
        min_rows: a category with fewer rows in train is merged with the other rare ones; None for a hundredth of train,
            but 10 at least and 100 at most.
    """

    drop: Sequence[str] = ()
    protected_inputs: bool = True
    missing: Literal["impute", "drop"] = "impute"
    min_rows: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        both = [name for name in self.drop if name in self.used]
        if both:
            raise ValueError(f"drop: {both[0]!r} is in use as a target, protected, people or split column: keep it")

    def fingerprint(self, data_dir: Path) -> str:
        require("pandas", "pyarrow", "sklearn", "skops", extra="table", what="dataset=table")
        return self.files(data_dir).digest()[:16]

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the table and encode it. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)
        files = self.files(data_dir)
        frame = self.read(files)
        self.require(frame, files, drop=self.drop)
        frame = frame.drop(columns=list(self.drop))
        if self.missing == "drop":
            frame = frame[frame.notna().all(axis=1)]
            if not len(frame):
                raise ValueError(f"missing is 'drop', but no row of {files} has a value in every column: impute them")
        index = torch.from_numpy(frame.index.to_numpy(dtype=np.int64, copy=True))
        frame = frame.reset_index(drop=True)
        labels = self.labels(frame, files)
        train = labels.parts["train"].numpy()
        min_rows = self.min_rows or min(max(len(train) // _SHARE, _FEWEST), _MOST)
        labelling = {self.target, self.people, self.split, FILE_SPLIT}
        labelling |= set() if self.protected_inputs else set(self.protected)
        inputs = frame[[name for name in frame.columns if name not in labelling]]
        if not len(inputs.columns):
            raise ValueError(f"drop: {files} has no column that is an input: keep one or more")
        protected = self.protected if self.protected_inputs else ()
        kinds = column_kinds(inputs, train, protected=protected, min_rows=min_rows, source=files)
        return encoded(
            inputs,
            kinds,
            labels,
            index=index,
            target=self.target,
            protected=protected,
            min_rows=min_rows,
            fingerprint=fingerprint,
            source=files,
        )


def encoded(
    frame: "pd.DataFrame",
    kinds: Sequence[Column],
    labels: Labels,
    *,
    index: Tensor,
    target: str,
    protected: Sequence[str],
    min_rows: int,
    fingerprint: str,
    source: object,
    indicators: Sequence[str] | None = None,
) -> Dataset:
    """Assemble the data set of a table.

    Args:
        frame: `[n]` rows of inputs.
        kinds: how its columns become numbers.
        labels: of the rows, and their splits.
        index: `[n]` int64: ids of the rows.
        target: name of what is predicted.
        protected: columns of the frame that the attribute is made of; with none, pairs are two rows of one label.
        min_rows: see `fit_preprocessing`.
        fingerprint: of the files.
        source: of the table, for messages.
        indicators: columns of two values that AIF360 is to know as protected; by default those of `protected`.
    """
    preprocessing = fit_preprocessing(frame.iloc[labels.parts["train"].numpy()], kinds, min_rows)
    x = preprocessing.transform(frame)
    places = tuple(i for i, name in enumerate(preprocessing.sources) if name in protected)
    first = torch.tensor([int((labels.a == value).nonzero()[0]) for value in range(len(labels.attributes))])
    facts: dict[str, Any] = {
        "columns": preprocessing.columns,
        "attribute_columns": places,
        "attribute_values": x[first][:, list(places)] if places else None,
        "target": target,
        "classes": labels.classes,
        "indicators": _indicators(kinds, protected if indicators is None else indicators),
    }
    splits: dict[str, Split] = {
        name: TableSplit(index=index[rows], x=x[rows], **labels.at(rows), **facts)
        for name, rows in labels.parts.items()
    }
    return assembled(
        splits,
        labels,
        source,
        flippable=bool(places),
        input_shape=tuple(x.shape[1:]),
        fingerprint=fingerprint,
        attribute_columns=places or None,
        target=target,
        per_sample_inputs=False,  # train sets means, scales and which categories are merged
        preprocessing=preprocessing,
    )


def _indicators(kinds: Sequence[Column], names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the names of the two values of those of the columns that have two."""
    values = {kind.name: kind.levels for kind in kinds if kind.kind == "indicator" and kind.levels is not None}
    return {name: (label_name(values[name][0]), label_name(values[name][1])) for name in names if name in values}
