"""Columns of parquet files: one of lists of equal length, or one of numbers for each dimension."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from efface.embeddings.columns import Column, batch_sizes, regrouped
from efface.extras import require

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

T = TypeVar("T")


@dataclass(frozen=True)
class ParquetColumn(Column):
    """Numbers in a parquet file, which is read a row group at a time."""

    names: tuple[str, ...]
    """Columns of the file: one, or one for each dimension."""

    def batches(self, rows: int) -> Iterator[Tensor]:
        """Read the column in batches; see `Column.batches`."""
        return regrouped(self._parts(rows), batch_sizes(self.rows, rows))

    def _parts(self, rows: int) -> Iterator[Tensor]:
        """Read batches of any size up to `rows`."""
        with _opened(self.path) as file:
            first = 0
            batches = file.iter_batches(batch_size=rows, columns=list(self.names))
            while (batch := _read(lambda: next(batches, None), self.path)) is not None:
                yield self._tensor(batch, first)
                first += len(batch)

    def _tensor(self, batch: "pa.RecordBatch", first: int) -> Tensor:
        """Take the numbers out of a batch whose first row is row `first` of the file."""
        parts = [_numbers(batch.column(name), self.path, name, first, self.shape[1:]) for name in self.names]
        numbers = torch.from_numpy(parts[0] if len(parts) == 1 else np.stack(parts, 1))
        return numbers.reshape(-1, *self.shape[1:])

    def rewrite(self, target: Path, batches: Iterator[Tensor]) -> None:
        """Copy the file with other numbers in this column; see `Column.rewrite`. Row groups stay as they are."""
        import pyarrow as pa
        from pyarrow import parquet

        with _opened(self.path) as file:
            schema = file.schema_arrow
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            groups = [group for group, rows in enumerate(counts) if rows]
            sizes = [counts[group] for group in groups]
            others = [name for name in schema.names if name not in self.names]
            with parquet.ParquetWriter(target, schema, compression=_compression(file)) as writer:
                for group, rows in zip(groups, regrouped(batches, sizes), strict=True):
                    rest = _read(functools.partial(file.read_row_group, group, columns=others), self.path)
                    columns = {name: rest.column(name) for name in others} | self._columns(rows, schema)
                    writer.write_table(pa.table([columns[name] for name in schema.names], schema=schema), len(rows))

    def _columns(self, rows: Tensor, schema: "pa.Schema") -> "dict[str, pa.Array]":
        """Make the columns of the file that hold `rows`."""
        import pyarrow as pa

        if len(self.names) == len(self.shape[1:]) == 1 and not _is_number(schema.field(self.names[0]).type):
            flat = pa.array(rows.reshape(-1).numpy())
            lists = pa.FixedSizeListArray.from_arrays(flat, self.shape[1])
            return {self.names[0]: lists.cast(schema.field(self.names[0]).type)}
        return {
            name: pa.array(np.ascontiguousarray(rows[:, i].numpy()), schema.field(name).type)
            for i, name in enumerate(self.names)
        }


def open_parquet(path: Path, name: str) -> ParquetColumn:
    """Find the column `name` of a parquet file, or else the columns `name0`, `name1`, … (also `name_0`, `name.0`).

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        OSError: the file cannot be read.
        ValueError: it is damaged, has no such column, or the column holds no numbers.
    """
    with _opened(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
        _require_once(path, schema.names)
        names = (name,) if name in schema.names else _numbered(path, name, schema.names)
        if not names:
            shown = ", ".join(schema.names[:10]) + (", …" if len(schema.names) > 10 else "")
            raise ValueError(
                f"{path} has no column {name!r} and no {name}0, {name}1, …, but {shown}: name one with --x or --z"
            )
        types = [schema.field(column).type for column in names]
        is_list = names == (name,) and not _is_number(types[0])
        dtypes = {_dtype(type_.value_type if is_list and _is_list(type_) else type_, path, name) for type_ in types}
        if len(dtypes) > 1:
            raise ValueError(f"{path} has columns {name}0, {name}1, … of unlike dtype: store all in one")
        width = (_length(file, name),) if is_list else () if names == (name,) else (len(names),)
    return ParquetColumn(path, (n, *width), dtypes.pop(), names)


def _opened(path: Path) -> "parquet.ParquetFile":
    require("pyarrow", extra="embeddings", what="a parquet file")
    from pyarrow import parquet

    return _read(lambda: parquet.ParquetFile(path), path)


def _read(call: Callable[[], T], path: Path) -> T:
    """Call a function that reads a file of arrow; its errors become one that names the file."""
    import pyarrow as pa

    try:
        return call()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged, or no parquet file ({reason}): make it again") from error


def _numbered(path: Path, name: str, names: list[str]) -> tuple[str, ...]:
    """Return the columns that are called `name` and a number, by that number."""
    matches = {column: re.fullmatch(rf"{re.escape(name)}[_.]?(\d+)", column) for column in names}
    numbers = {column: int(match[1]) for column, match in matches.items() if match}
    columns = sorted(numbers, key=numbers.__getitem__)
    for one, other in pairwise(columns):
        if numbers[one] == numbers[other]:
            raise ValueError(f"{path} has both {one} and {other}: rename one of them, or name others with --x or --z")
    return tuple(columns)


def _require_once(path: Path, names: list[str]) -> None:
    """ValueError if two columns have one name, by which neither could be read or copied."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has two columns {twice}: rename one of them")


def _is_list(type_: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_fixed_size_list(type_) or types.is_list(type_) or types.is_large_list(type_))


def _is_number(type_: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_floating(type_) or types.is_integer(type_) or types.is_boolean(type_))


def _dtype(type_: "pa.DataType", path: Path, name: str) -> torch.dtype:
    if not _is_number(type_):
        raise ValueError(f"{path} has a column {name} of {type_}: store numbers, or lists of numbers")
    return torch.from_numpy(np.empty(0, type_.to_pandas_dtype())).dtype


def _length(file: "parquet.ParquetFile", name: str) -> int:
    """Return the length of the lists in a column: that of its type, or of the first row."""
    type_ = file.schema_arrow.field(name).type
    if hasattr(type_, "list_size"):
        return int(type_.list_size)
    for batch in file.iter_batches(batch_size=1, columns=[name]):
        return len(batch.column(name)[0].as_py() or ())
    return 0


def _numbers(array: "pa.Array", path: Path, name: str, first: int, width: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    """Return the numbers of a column of lists `[n, k]`, or of numbers `[n]`; `first` is its first row in the file.

    Raises:
        ValueError: a value is missing, or a list has another length than the first one.
    """
    import pyarrow.compute as pc

    where = pc.is_null(array)
    if _is_list(array.type):
        where = pc.or_kleene(where, pc.not_equal(pc.list_value_length(array), width[0]))
    if pc.any(where).as_py():
        row = first + where.index(True).as_py()
        size = f" or is no list of {width[0]} numbers, as in the first row" if _is_list(array.type) else ""
        raise ValueError(f"{path}: {name} is missing in row {row}{size}: drop or impute such rows first")
    values = array.flatten() if _is_list(array.type) else array
    if values.null_count:
        row = first + values.is_null().index(True).as_py() // width[0]
        raise ValueError(f"{path}: {name} lacks a number in row {row}: drop or impute such rows first")
    # A copy: the memory of arrow may not be written to, and torch has no tensors that are read-only.
    numbers = np.array(values.to_numpy(zero_copy_only=False))
    return numbers.reshape(len(array), *width) if _is_list(array.type) else numbers


def _compression(file: "parquet.ParquetFile") -> str:
    """Return the codec of the file's first column, as `ParquetWriter` calls it."""
    if not file.metadata.num_row_groups or not file.metadata.num_columns:
        return "snappy"
    codec: str = file.metadata.row_group(0).column(0).compression
    return "none" if codec == "UNCOMPRESSED" else codec.lower()
