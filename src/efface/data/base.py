"""The contract of a data set: four disjoint splits, and pairs of samples that differ in the protected attribute.

`train` fits the model; `val`, distributed like it, selects; `pairs` is the small external counterfactual set; `test` is
reported and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from efface.data.text import some
from efface.data.vocabulary import Vocabulary

SPLITS = ("train", "val", "pairs", "test")


class Split(Protocol):
    """Labels in memory, inputs on demand."""

    @property
    def index(self) -> Tensor:
        """`[n]` int64: ids in the source, disjoint over splits."""
        ...

    @property
    def y(self) -> Tensor:
        """`[n]` int64: target labels."""
        ...

    @property
    def a(self) -> Tensor:
        """`[n]` int64: protected attribute."""
        ...

    @property
    def cluster(self) -> Tensor | None:
        """`[n]` int64: samples of one value belong together (one person's photographs); None if all are independent.

        Probes and confidence intervals never split a cluster.
        """
        ...

    def inputs(self, rows: Tensor, *, a: Tensor | None = None, device: str | torch.device = "cpu") -> Tensor:
        """Return the inputs of `rows` in float32, on `device`. With `a`: the same samples under that attribute.

        Raises:
            ValueError: `a` is given, but no counterfactual of a sample exists in these data.
        """
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Pairs:
    """Row `rows[i]` under `a[i]`, and row `rows_cf[i]` of equal y under `a_cf[i]`. Flippable data: the same row."""

    split: Split
    rows: Tensor
    rows_cf: Tensor
    a: Tensor
    a_cf: Tensor
    counterfactual: bool = False
    """Whether pair i is sample i and its own counterfactual; otherwise its members are two samples."""

    def __len__(self) -> int:
        return len(self.rows)


class Preprocessing(Protocol):
    """What makes inputs of the rows of a table, fitted on train; saved with a run, so that new rows can be read."""

    def transform(self, frame: Any) -> Tensor:
        """Return the inputs `[n, d]` float32 of a data frame with the columns of the table."""
        ...

    def save(self, path: Path) -> None:
        """Write it to a file, without pickle."""
        ...


@dataclass(frozen=True)
class Dataset:
    """A loaded data set."""

    train: Split
    val: Split
    pairs: Pairs
    test: Split
    val_pairs: Pairs
    """Counterfactuals of val, for evaluation on val only."""
    test_pairs: Pairs
    """Counterfactuals of test, for evaluation only."""
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    input_shape: tuple[int, ...]
    flippable: bool
    """Whether `inputs(rows, a=...)` gives a sample under another attribute."""
    fingerprint: str
    """Hash of the files read; part of the cache key and of the record."""
    attribute_columns: tuple[int, ...] | None = None
    """Tabular data only: indices of the input columns that hold the protected attribute. Correlated columns are not
    listed."""
    per_sample_inputs: bool | None = None
    """Whether the inputs of each sample are a function of that sample alone, and remember no other one, as columns do
    that were standardised by train. None where it is not known."""
    inputs_key: str | None = None
    """What determines the inputs of a sample together with its id, whatever the labels and the splits: features of such
    inputs serve every task on them. None where inputs depend on more than that."""
    target: str | None = None
    """What the classes are values of, in the data's words; None where they have none."""
    tokens: bool = False
    """Whether the inputs are the numbers of tokens, and their mask, which mean nothing as quantities."""
    vocabulary: Vocabulary | None = None
    """Data sets of words only: all words of the source with their inputs, those of no split among them."""
    preprocessing: Preprocessing | None = None
    """Tabular data only: what made the inputs of the rows."""

    @classmethod
    def from_parts(cls, splits: Mapping[str, Split], pairs: Mapping[str, Pairs], **facts: Any) -> "Dataset":
        """Assemble a data set from its splits by name, and from the pairs of `val`, `pairs` and `test`.

        Args:
            splits: one for each of `SPLITS`.
            pairs: those of `val`, `pairs` and `test`.
            facts: the other fields.
        """
        return cls(
            train=splits["train"],
            val=splits["val"],
            pairs=pairs["pairs"],
            test=splits["test"],
            val_pairs=pairs["val"],
            test_pairs=pairs["test"],
            **facts,
        )


class Source(Protocol):
    """The class that a file in conf/dataset names: options that load a `Dataset`."""

    def fingerprint(self, data_dir: Path) -> str:
        """Return 16 hex digits that change when the files do.

        Called before every run, so that a finished one is recognised without loading: it should take seconds at most.
        """
        ...

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Load the data set. `seed` draws what differs between repetitions; the splits must not depend on it."""
        ...


@dataclass(frozen=True)
class TensorSplit:
    """A split whose inputs are one tensor in memory."""

    index: Tensor
    y: Tensor
    a: Tensor
    x: Tensor
    cluster: Tensor | None = None

    def inputs(self, rows: Tensor, *, a: Tensor | None = None, device: str | torch.device = "cpu") -> Tensor:
        if a is not None:
            raise ValueError("a: these data hold no counterfactual of a sample, so its attribute cannot be changed")
        return self.x[rows].to(device, torch.float32)

    def __len__(self) -> int:
        return len(self.y)


def flip_pairs(split: Split, n_attributes: int, generator: torch.Generator) -> Pairs:
    """Pair every sample with its counterfactual under another attribute, drawn uniformly and in equal numbers.

    Within each (y, a) the other values are dealt out in turn, in random order: their counts differ by at most one.
    """
    if n_attributes < 2:
        raise ValueError(f"n_attributes is {n_attributes}, but a counterfactual needs another value of the attribute")
    n = len(split)
    order = torch.randperm(n, generator=generator)
    a_cf = torch.empty(n, dtype=torch.int64)
    cells = split.y[order] * n_attributes + split.a[order]
    for cell in cells.unique().tolist():
        members = order[cells == cell]
        turn = torch.randperm(n_attributes - 1, generator=generator)
        offset = 1 + turn[torch.arange(len(members)) % (n_attributes - 1)]
        a_cf[members] = (split.a[members] + offset) % n_attributes
    rows = torch.arange(n)
    return Pairs(split=split, rows=rows, rows_cf=rows, a=split.a, a_cf=a_cf, counterfactual=True)


def matched_pairs(split: Split, generator: torch.Generator) -> Pairs:
    """Pair every sample with another of the same label and a different attribute, drawn at random.

    Samples of a label that occurs under one attribute only have no partner and are left out.
    """
    rows, rows_cf = [], []
    for label in split.y.unique().tolist():
        members = (split.y == label).nonzero()[:, 0]
        for value in split.a[members].unique().tolist():
            same, others = members[split.a[members] == value], members[split.a[members] != value]
            if len(others):
                rows.append(same)
                rows_cf.append(others[torch.randint(len(others), (len(same),), generator=generator)])
    empty = torch.empty(0, dtype=torch.int64)
    r, r_cf = (torch.cat(rows), torch.cat(rows_cf)) if rows else (empty, empty)
    return Pairs(split=split, rows=r, rows_cf=r_cf, a=split.a[r], a_cf=split.a[r_cf])


def stratified_split(strata: Tensor, sizes: dict[str, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Deal rows out to named parts, each stratum in the same proportions as nearly as whole rows allow.

    Args:
        strata: `[n]` int64.
        sizes: rows in each part; together at most n.

    Returns:
        Sorted row numbers of each part.
    """
    n = len(strata)
    if min(sizes.values(), default=0) < 0:
        raise ValueError(f"sizes {sizes} must be 0 or more")
    if sum(sizes.values()) > n:
        raise ValueError(f"sizes {sizes} need {sum(sizes.values())} rows, but there are {n}")
    # Shuffle, sort by stratum, and give each row its relative rank within its stratum: an even spread over strata.
    order = torch.randperm(n, generator=generator)
    order = order[torch.argsort(strata[order], stable=True)]
    counts = torch.bincount(strata)
    start = counts.cumsum(0) - counts
    rank = torch.arange(n) - start[strata[order]]
    # The tie-break by stratum staggers the boundaries, so that parts come out at exactly their sizes.
    spread = (rank.double() + (strata[order].double() + 0.5) / len(counts)) / counts[strata[order]].double()
    order = order[torch.argsort(spread, stable=True)]
    parts, first = {}, 0
    for name, size in sizes.items():
        parts[name] = order[first : first + size].sort().values
        first += size
    return parts


def require_every_class(splits: dict[str, Split], classes: tuple[str, ...]) -> None:
    """Check that every class has a sample in each of the splits.

    Raises:
        ValueError: a class is missing; the message names it, the split, and how many samples the others have.
    """
    counts = {name: split.y.bincount(minlength=len(classes)) for name, split in splits.items()}
    for name, count in counts.items():
        missing = [label for label, n in zip(classes, count.tolist(), strict=True) if not n]
        if missing:
            first = classes.index(missing[0])
            elsewhere = ", ".join(f"{n[first]:,} in {other}" for other, n in counts.items() if other != name)
            raise ValueError(
                f"split {name!r} has no sample of class {some(missing)} (of {missing[0]}, there are {elsewhere}): "
                "give it some, or leave the class out of all splits"
            )


def require_two_attributes(train: Split, attributes: tuple[str, ...], source: object) -> None:
    """Check that train has two values of the attribute or more, without which there is nothing to erase.

    Raises:
        ValueError: it has one; the message names it, and the `source` of the data.
    """
    values = train.a.unique().tolist()
    if len(values) < 2:
        names = ", ".join(attributes[value] for value in values)
        raise ValueError(f"every sample of train in {source} has the attribute {names!r}; two or more are needed")
