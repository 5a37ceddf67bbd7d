"""A column: the embeddings or the labels in one file, read from its first row to its last in batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Column(ABC):
    """Numbers `[n]` or `[n, k]` in a file."""

    path: Path
    shape: tuple[int, ...]
    """`(n,)` or `(n, k)`"""
    dtype: torch.dtype

    @property
    def rows(self) -> int:
        """n"""
        return self.shape[0]

    @abstractmethod
    def batches(self, rows: int) -> Iterator[Tensor]:
        """Read the column in batches of `rows` rows, of which the last may have fewer; none of an empty column.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged.
        """

    @abstractmethod
    def rewrite(self, target: Path, batches: Iterator[Tensor]) -> None:
        """Write a copy of the whole file in which other numbers stand in this column.

        Args:
            target: the file to write.
            batches: the numbers, as many rows and of the same dtype, in batches of any size.

        Raises:
            OSError: the disk is full or read-only.
        """


def regrouped(batches: Iterable[Tensor], sizes: Iterable[int]) -> Iterator[Tensor]:
    """Divide the rows of some batches anew, into batches of these sizes, all above 0 and together of as many rows."""
    waiting: list[Tensor] = []
    source = iter(batches)
    for size in sizes:
        while sum(map(len, waiting)) < size:
            waiting.append(next(source))
        rows = waiting[0] if len(waiting) == 1 else torch.cat(waiting)
        yield rows[:size]
        waiting = [rows[size:]] if len(rows) > size else []


def batch_sizes(n: int, rows: int) -> Iterator[int]:
    """Divide n rows into batches of `rows` rows; the last one may have fewer."""
    return (min(rows, n - first) for first in range(0, n, rows))
