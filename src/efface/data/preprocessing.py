"""The columns of a table as numbers, by scikit-learn's `ColumnTransformer`, fitted on train alone.

It is made of scikit-learn's own classes only, so that it can be saved without pickle, and used without efface.
"""

import io
import itertools
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from efface.data.frames import require_columns
from efface.data.labels import label_name

if TYPE_CHECKING:
    import pandas as pd

MERGED = "(rare)"
"""Name of the category that the rare ones are merged into."""
_TRUSTED = ["numpy.dtype"]
"""What skops asks about in a file of a `ColumnTransformer` with imputers; it holds no code."""


@dataclass(frozen=True)
class Column:
    """How a column becomes numbers.

    A `number` is imputed by the median and standardised. An `indicator` has two values, and becomes 0 or 1. A
    `category` becomes one column of 0 or 1 for each value.
    """

    name: str
    kind: Literal["number", "indicator", "category"]
    levels: tuple[Any, ...] | None = None
    """All values, in their order, of which none is merged: those of an indicator, and of an attribute. None of a
    category whose values are those of train, the rare ones merged."""


@dataclass(frozen=True)
class TablePreprocessing:
    """A fitted `ColumnTransformer`, and the names of what it makes."""

    transformer: Any
    columns: tuple[str, ...]
    """`[d]`: `age` for a number or an indicator, `workclass=Private` for a category."""
    sources: tuple[str, ...]
    """`[d]`: the column of the table that each is made of."""

    def transform(self, frame: "pd.DataFrame") -> Tensor:
        """Return the inputs `[n, d]` float32 of rows of a table, as they were read.

        Raises:
            ValueError: the table lacks a column, or an input is not finite in float32.
        """
        names = list(self.transformer.feature_names_in_)
        require_columns(frame, {"frame": names}, "the table")
        with np.errstate(over="ignore"):
            x = self.transformer.transform(plain(frame[names])).astype(np.float32)
        if not np.isfinite(x).all():
            column = self.columns[int(np.flatnonzero(~np.isfinite(x).all(0))[0])]
            raise ValueError(
                f"column {column!r} holds a number that is infinite, or too far from those of train for float32: mend "
                "it, or drop the column"
            )
        return torch.from_numpy(np.ascontiguousarray(x))

    def save(self, path: Path) -> None:
        """Write it in the format of skops, which holds no code; the same bytes for the same content."""
        import skops.io

        content = skops.io.dumps(
            {"transformer": self.transformer, "columns": list(self.columns), "sources": list(self.sources)}
        )
        path.write_bytes(_without_addresses(content))

    @classmethod
    def load(cls, path: Path) -> "TablePreprocessing":
        """Read what `save` wrote."""
        import skops.io

        stored = skops.io.load(path, trusted=_TRUSTED)
        return cls(stored["transformer"], tuple(stored["columns"]), tuple(stored["sources"]))


def fit_preprocessing(frame: "pd.DataFrame", columns: Sequence[Column], min_rows: int) -> TablePreprocessing:
    """Fit on the rows of train.

    Numbers and indicators come first, in the order of `columns`, then the categories. A missing number becomes the
    median, a missing category the most frequent one.

    Args:
        frame: the rows of train.
        columns: what becomes of which column; the others are not read.
        min_rows: categories with fewer rows are merged, and with them the next rarest if they are too few together. A
            category that train lacks becomes the merged one too, or the most frequent one if nothing was merged. A
            column with only a few distinct rows would let an eraser balance the means and leave the attribute readable
            elsewhere.
    """
    from sklearn.compose import ColumnTransformer

    table = plain(frame[[column.name for column in columns]])
    parts: list[tuple[str, Any, list[str]]] = []
    names: list[str] = []
    sources: list[str] = []
    compact = [column for column in columns if column.kind != "category"]
    # Neighbours of one kind share a transformer: of thousands of numbers, one for each would take minutes.
    for i, (key, run) in enumerate(itertools.groupby(compact, lambda column: (column.kind, column.levels))):
        members = [column.name for column in run]
        transformer = _number() if key[0] == "number" else _indicator(key[1] or (), len(members))
        parts.append((f"{key[0]} {i}", transformer, members))
        names += members
        sources += members
    for column in columns:
        if column.kind == "category":
            transformer, values = _category(table[column.name], column.levels, min_rows)
            parts.append((f"category {column.name.replace('__', ' ')} {len(parts)}", transformer, [column.name]))
            names += [f"{column.name}={value}" for value in values]
            sources += [column.name] * len(values)
    transformer = ColumnTransformer(parts, sparse_threshold=0, verbose_feature_names_out=False)
    return TablePreprocessing(transformer.fit(table), tuple(names), tuple(sources))


def plain(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table of floats and of strings, NaN where there is no value; booleans as 0 and 1."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    columns = {}
    for name in frame.columns:
        column = frame[name]
        if is_numeric_dtype(column) or pd.api.types.infer_dtype(column, skipna=True) in ("boolean", "decimal"):
            columns[name] = pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=frame.index)
        else:
            words = [np.nan if gap else str(v) for v, gap in zip(column, column.isna(), strict=True)]
            columns[name] = pd.Series(words, index=frame.index, dtype=object)
    return pd.DataFrame(columns, index=frame.index)


def merge_rare(values: "pd.Series[Any]", min_rows: int) -> tuple[list[Any], bool]:
    """Return the categories to keep, sorted, and whether the others are merged into one.

    Args:
        values: of train; gaps are NaN.
        min_rows: categories with fewer rows are merged, and with them the next rarest if they are too few together.
    """
    counts = values.value_counts()
    counts = counts.sort_index().sort_values(kind="stable")  # from rare to frequent, ties by name
    before = counts.cumsum() - counts
    rare = set(counts.index[(counts < min_rows) | ((before > 0) & (before < min_rows))])
    return [name for name in sorted(counts.index) if name not in rare], bool(rare)


def _number() -> Any:
    """Make a transformer of numbers."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler())


def _indicator(values: tuple[Any, ...], n_columns: int) -> Any:
    """Make a transformer of columns of the same two values to 0 and 1."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    numbers = OrdinalEncoder(
        categories=[list(values)] * n_columns, handle_unknown="use_encoded_value", unknown_value=np.nan
    )
    return make_pipeline(numbers, SimpleImputer(strategy="most_frequent"))


def _category(values: "pd.Series[Any]", every: tuple[Any, ...] | None, min_rows: int) -> tuple[Any, list[str]]:
    """Make a transformer of one column to one-hot columns; return it, and the values that these stand for."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    single, merged = merge_rare(values, min_rows) if every is None else (list(every), False)
    # With a limit, scikit-learn merges the rarest, ties by name: those that `merge_rare` does not keep.
    choice = {"max_categories": len(single) + 1} if merged else {"categories": [single]}
    numbers = OrdinalEncoder(**choice, handle_unknown="use_encoded_value", unknown_value=np.nan)
    others = len(single) if merged else single.index(values.mode()[0])
    transformer = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        numbers,
        SimpleImputer(strategy="constant", fill_value=float(others)),
        OneHotEncoder(categories=[np.arange(len(single) + merged, dtype=np.float64)], sparse_output=False),
    )
    return transformer, [*map(label_name, single), *([MERGED] if merged else [])]


def _without_addresses(content: bytes) -> bytes:
    """Replace the addresses in memory by which skops names objects, and the time, so that equal content is equal."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers))) + match[3]

    with zipfile.ZipFile(io.BytesIO(content)) as source:
        files = {name: source.read(name) for name in source.namelist()}
    schema = re.sub(r'("__id__": |"file": ")(\d+)(\b)', number, files.pop("schema.json").decode())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        named = {f"{numbers[Path(name).stem]}{Path(name).suffix}": data for name, data in files.items()}
        for name, data in [*sorted(named.items()), ("schema.json", schema.encode())]:
            target.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
