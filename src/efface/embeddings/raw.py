"""Columns of `.npy` and `.safetensors` files, whose rows follow one another as bytes.

Rows are read into memory and not mapped: pages of a mapped file count as resident memory, and a process that touches a
mapped file that has been cut short is killed, where reading it is an error with a message.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from efface.embeddings.columns import Column, batch_sizes

_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "BOOL": torch.bool,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}
"""By their names in safetensors."""
_COPIED = 1 << 24
"""Bytes that are copied at a time."""


@dataclass(frozen=True)
class RawColumn(Column):
    """Numbers that stand in a file row by row, from the byte `start` on."""

    start: int

    def batches(self, rows: int) -> Iterator[Tensor]:
        """Read the column in batches; see `Column.batches`."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            for size in batch_sizes(self.rows, rows):
                batch = torch.empty((size, *self.shape[1:]), dtype=self.dtype)
                self._fill(batch, file)
                yield batch

    def _fill(self, batch: Tensor, file: FileIO) -> None:
        missing = _bytes(batch)
        while missing:
            count = file.readinto(missing)
            if not count:
                raise ValueError(f"{self.path} is damaged: it ends early, was it cut short? Make it again")
            missing = missing[count:]

    def rewrite(self, target: Path, batches: Iterator[Tensor]) -> None:
        """Copy the file with other numbers in this column; see `Column.rewrite`."""
        with self.path.open("rb") as source, target.open("wb") as file:
            _copy(source, file, self.start)
            for batch in batches:
                file.write(_bytes(batch))
            source.seek(file.tell())
            shutil.copyfileobj(source, file, _COPIED)


def _bytes(batch: Tensor) -> memoryview:
    """View the memory of a tensor as bytes."""
    view: memoryview = batch.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return view


def _copy(source: IO[bytes], target: IO[bytes], count: int) -> None:
    """Copy so many bytes, or those that there are."""
    while content := source.read(min(count, _COPIED)):
        target.write(content)
        count -= len(content)


def open_npy(path: Path) -> RawColumn:
    """Find the array of a `.npy` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds what cannot be read row by row.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged, or no .npy file of numbers ({error}): make it again, with labels as classes 0 … K − 1"
        ) from error
    if not isinstance(array, np.memmap):
        raise ValueError(f"{path} is an archive of arrays: save each with np.save")
    if array.ndim not in (1, 2) or not array.flags.c_contiguous:
        raise ValueError(
            f"{path} holds an array of shape {list(array.shape)}{'' if array.flags.c_contiguous else ', by columns'}: "
            "save np.ascontiguousarray of [n, d], or of [n] for labels"
        )
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{path} holds {array.dtype}, but must hold numbers: number the classes 0 … K − 1")
    try:
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds {array.dtype.str!r} ({error}): save numbers in the machine's byte order; bfloat16 needs "
            "safetensors"
        ) from error
    return RawColumn(path, tuple(array.shape), dtype, array.offset)


def open_safetensors(path: Path, name: str) -> RawColumn:
    """Find a tensor of a `.safetensors` file by its name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, has no such tensor, or the tensor is neither a vector nor a matrix.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # checks that the header fits the file
            names = sorted(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no .safetensors file ({error}): make it again") from error
    if name not in names:
        raise ValueError(
            f"{path} has no tensor {name!r}, but {', '.join(names) or 'none'}: name one of them with --x or --z"
        )
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(header - 8))[name]
    shape = tuple(entry["shape"])
    if len(shape) not in (1, 2) or entry["dtype"] not in _DTYPES:
        raise ValueError(
            f"{path} holds {name} of dtype {entry['dtype']} and shape {list(shape)}: save numbers [n, d], or [n] for "
            "labels"
        )
    return RawColumn(path, shape, _DTYPES[entry["dtype"]], header + entry["data_offsets"][0])
