"""Shards: pairs of embeddings and labels in files, what they hold together, and the stream of their batches."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from efface.embeddings.columns import Column
from efface.embeddings.group import Group
from efface.embeddings.parquet import open_parquet
from efface.embeddings.raw import open_npy, open_safetensors
from efface.erasure.inputs import is_integer
from efface.moments import Moments, working_dtype

T = TypeVar("T")

_BATCH_BYTES, _MOST_ROWS, _LEAST_ROWS = 1 << 26, 16_384, 256
"""A batch is as many rows as these bytes hold in float32, within limits."""


@dataclass(frozen=True)
class Source:
    """Which files hold the shards, and what their columns are called."""

    shards: tuple[Path, ...]
    labels: tuple[Path, ...] | None
    """As many, in the same order; None if the labels are in the shards."""
    x: str
    z: str

    def __post_init__(self) -> None:
        """ValueError if a shard is there twice, or the lists are of unlike length."""
        places = [path.resolve() for path in self.shards]
        twice = next((path for path, place in zip(self.shards, places, strict=True) if places.count(place) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is given twice: give each shard once")
        if self.labels is not None and len(self.labels) != len(self.shards):
            raise ValueError(
                f"--labels has {len(self.labels)} files, but there are {len(self.shards)} shards: give one for each, "
                "in the same order"
            )

    def inputs(self) -> list[tuple[Path, Path]]:
        """Return the files of each shard, of the embeddings and of the labels."""
        return list(zip(self.shards, self.labels or self.shards, strict=True))


@dataclass(frozen=True)
class Shard:
    """Embeddings `[n, d]` and their labels, both not yet read."""

    x: Column
    z: Column | None
    """`[n]` or `[n, k]`; None where no labels are needed."""


class Concept(NamedTuple):
    """What the labels of a shard, or of all, are."""

    classes: int | None
    """Above the largest label; None for numbers."""
    width: int
    """Columns of numbers; 1 for labels."""
    lowest: int = 0
    """The smallest label; 0 for numbers."""


class Facts(NamedTuple):
    """What a shard holds."""

    name: str
    rows: int
    d: int
    dtype: torch.dtype
    concept: Concept | None


@dataclass(frozen=True)
class Summary:
    """What all shards hold together."""

    rows: int
    d: int
    dtype: torch.dtype
    """In which statistics are formed: at least float32."""
    concept: Concept | None

    @property
    def batch(self) -> int:
        """Rows of a batch."""
        return min(_MOST_ROWS, max(_LEAST_ROWS, _BATCH_BYTES // (4 * self.d)))

    def require_contrast(self) -> None:
        """ValueError if the shards can say nothing of a concept: they have one row, or all labels are the same."""
        if self.rows < 2:
            raise ValueError("the shards have 1 row in all, but statistics need two or more: give more rows")
        concept = self.concept
        if concept is not None and concept.classes is not None and concept.lowest == concept.classes - 1:
            raise ValueError(
                f"the labels are all {concept.lowest}: there is nothing to erase; give rows of two or more classes"
            )


class Batch(NamedTuple):
    """Rows of one shard."""

    shard: Shard
    first: int
    """Their first row in the shard."""
    x: Tensor
    z: Tensor | None
    is_last: bool
    """Whether the shard ends with them."""

    def named(self, call: Callable[[], T]) -> T:
        """Call a function of these rows; a ValueError names the file, and the row if that is the reason."""
        try:
            return call()
        except ValueError as error:
            raise ValueError(self._not_finite() or f"{self.shard.x.path}: {error}") from error

    def _not_finite(self) -> str | None:
        pairs = ((self.x, self.shard.x), (self.z, self.shard.z))
        for values, column in pairs:
            if values is not None and column is not None and values.is_floating_point():
                bad = (~torch.isfinite(values.reshape(len(values), -1))).any(1).nonzero()
                if len(bad):
                    return (
                        f"{column.path} has NaN or infinite values in row {self.first + int(bad[0])}: drop or impute "
                        "such rows first"
                    )
        return None


def open_shard(files: tuple[Path, Path], source: Source, *, labelled: bool) -> Shard:
    """Open the files of a shard, reading no more than their headers.

    Args:
        files: of the embeddings, and of the labels.
        source: the names of the columns.
        labelled: whether labels are needed.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged, of an unknown format, or lacks what is looked for; or there are more or fewer
            labels than rows.
    """
    x = _column(files[0], source.x)
    if len(x.shape) != 2 or not x.dtype.is_floating_point:
        raise ValueError(
            f"{x.path} holds {x.dtype} of shape {list(x.shape)}, but embeddings are floating-point numbers [n, d]"
        )
    if x.rows and not x.shape[1]:
        raise ValueError(f"{x.path} holds embeddings of no columns: give some")
    if not labelled:
        return Shard(x, None)
    if files[0] == files[1] and files[0].suffix == ".npy":
        raise ValueError(f"{x.path} holds one array: give the files of the labels with --labels")
    if files[0] == files[1] and source.x == source.z:
        raise ValueError(f"--x and --z are both {source.x!r}: name the labels' own column with --z")
    z = _column(files[1], source.z)
    if z.dtype.is_complex or 0 in z.shape[1:]:
        raise ValueError(
            f"{z.path} holds labels of dtype {z.dtype} and shape {list(z.shape)}: give real numbers or integers, [n] "
            "or [n, k] of one column or more"
        )
    if z.rows != x.rows:
        raise ValueError(f"{z.path} has {z.rows:,} labels, but {x.path} has {x.rows:,} rows: give one for each row")
    return Shard(x, z)


def _column(path: Path, name: str) -> Column:
    openers: dict[str, Callable[[], Column]] = {
        ".npy": functools.partial(open_npy, path),
        ".safetensors": functools.partial(open_safetensors, path, name),
        ".parquet": functools.partial(open_parquet, path, name),
    }
    if path.suffix not in openers:
        raise ValueError(f"{path} has an unknown format: shards are {', '.join(openers)} files")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the paths of shards that exist")
    return openers[path.suffix]()


def opened(source: Source, group: Group, *, labelled: bool) -> tuple[list[Shard], Summary]:
    """Open the shards of this process, read their labels once, and find out what the shards of all processes hold.

    Raises:
        OSError: a file cannot be read.
        ValueError: a shard is wrong, or does not fit the others; on every process.
    """
    shards: list[Shard] = []

    def survey() -> list[Facts]:
        shards.extend(open_shard(files, source, labelled=labelled) for files in group.share(source.inputs()))
        return [_facts(shard) for shard in shards]

    return shards, _summary([facts for part in group.gather(survey) for facts in part])


def _facts(shard: Shard) -> Facts:
    rows, d = shard.x.shape
    return Facts(str(shard.x.path), rows, d, shard.x.dtype, None if shard.z is None else _concept(shard.z))


def _concept(z: Column) -> Concept:
    """Read all labels for the smallest and the largest one; numbers are not read.

    Raises:
        ValueError: a label is negative.
    """
    width = z.shape[1] if len(z.shape) == 2 else 1
    if width != 1 or not is_integer(torch.empty(0, dtype=z.dtype)):
        return Concept(None, width)
    lowest, highest = 1 << 63, -1
    for batch in z.batches(1 << 20):
        low, high = (int(value) for value in batch.to(torch.int64).aminmax())
        if low < 0:
            raise ValueError(f"{z.path} has the label {low}: number the classes 0 … K − 1")
        lowest, highest = min(lowest, low), max(highest, high)
    return Concept(highest + 1, width, lowest)


def _summary(parts: Sequence[Facts]) -> Summary:
    """Put together what all shards hold; those without rows do not count.

    Raises:
        ValueError: none has a row, or two do not fit each other.
    """
    parts = [part for part in parts if part.rows]
    if not parts:
        raise ValueError("the shards have no rows: give at least one with rows")
    first, rows = parts[0], sum(part.rows for part in parts)
    for part in parts:
        if part.d != first.d:
            raise ValueError(
                f"{part.name} has {part.d} columns, but {first.name} has {first.d}: all shards need the same width"
            )
        if _kind(part) != _kind(first):
            raise ValueError(
                f"the labels of {part.name} are {_kind(part)}, but those of {first.name} {_kind(first)}: "
                "store all alike"
            )
    concept = first.concept
    if concept is not None and concept.classes is not None:
        concepts = [part.concept for part in parts if part.concept is not None]
        classes = max(each.classes or 0 for each in concepts)
        if classes > max(1000, 10 * rows):
            raise ValueError(f"{rows:,} rows have labels up to {classes - 1}: number the classes 0 … K − 1")
        concept = Concept(classes, 1, min(each.lowest for each in concepts))
    dtype = functools.reduce(torch.promote_types, (working_dtype(part.dtype) for part in parts))
    return Summary(rows, first.d, dtype, concept)


def require_varying(moments: Moments) -> None:
    """ValueError if z, which need not be labels, is the same in all rows that were seen, but for rounding."""
    if not bool((moments.var_z().sqrt() > 1e-12 * moments.mean_z.abs()).any()):
        raise ValueError("the labels are the same in all rows: there is nothing to erase; give rows of unlike labels")


def _kind(part: Facts) -> str:
    if part.concept is None:
        return "none"
    return "integers" if part.concept.classes is not None else f"numbers in {part.concept.width} columns"


def batches_of(shards: Iterable[Shard], rows: int, bar: "tqdm[Any]") -> Iterator[Batch]:
    """Read shards in batches of `rows` rows that end where a shard ends; the next is read while one is used.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged.
    """
    for batch in _ahead(_read(shards, rows)):
        yield batch
        bar.update(len(batch.x))


def _read(shards: Iterable[Shard], rows: int) -> Iterator[Batch]:
    for shard in shards:
        first = 0
        labels = None if shard.z is None else shard.z.batches(rows)
        for x in shard.x.batches(rows):
            z = None if labels is None else next(labels)
            if z is not None and is_integer(z):
                z = z.to(torch.int64)
            yield Batch(shard, first, x, z, first + len(x) == shard.x.rows)
            first += len(x)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Compute the next item in a thread while one is used."""
    end: list[T] = []
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


def progress(shards: Sequence[Shard], group: Group, what: str) -> "tqdm[Any]":
    """Make a bar over the rows of this process's shards, which the first process shows on a terminal."""
    total = sum(shard.x.rows for shard in shards)
    bar: tqdm[Any] = tqdm(total=total, desc=what, unit="row", unit_scale=True, disable=True if group.rank else None)
    return bar
