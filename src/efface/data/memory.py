"""Data that a Python caller holds in memory: arrays, tensors, frames or a DataLoader, as a data set of the grid."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from efface.data.base import (
    SPLITS,
    Dataset,
    Pairs,
    TensorSplit,
    matched_pairs,
    require_every_class,
    require_two_attributes,
)
from efface.data.groups import groups
from efface.data.labels import codes
from efface.data.splits import dealt_parts, require_whole
from efface.data.text import some
from efface.tensorfiles import content_digest

RATIOS = {"train": 0.6, "val": 0.1, "pairs": 0.1, "test": 0.2}
"""Shares of the splits where rows are dealt out."""
_FORMS = (
    "data must be (x, y, a), a DataLoader of (x, y, a) batches, or a mapping of either to the names "
    "train, val, test and, if you like, pairs"
)


@dataclass(frozen=True)
class InMemory:
    """A source whose data set is loaded already."""

    dataset: Dataset

    def fingerprint(self, data_dir: Path) -> str:
        return self.dataset.fingerprint

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        return self.dataset


@dataclass(frozen=True)
class _Part:
    """Rows under one name."""

    x: Tensor
    y: Tensor
    a: np.ndarray
    people: np.ndarray | None
    m: int | None = None
    """Rows i and m + i are the two members of a pair, where pairs are given."""

    def __len__(self) -> int:
        return len(self.y)


def from_memory(
    data: Any, *, encode: Callable[[Any], Tensor], classes: Sequence[Any], people: Any = None, what: str = "data"
) -> Dataset:
    """Make a data set of what a caller holds. Rows without a split are dealt out, stratified by label and attribute.

    Args:
        data: `(x, y, a)`; a DataLoader of such batches; or a mapping of either to `train`, `val`, `test` and, if you
            like, `pairs`, which may be `(x, x_cf, y, a, a_cf)` too: each sample and its counterfactual. Without
            pairs, a tenth of train is set aside for them. Other pairs are two samples of one label, matched at random.
        encode: makes the tensor `[n, ...]` of inputs that the model is shown from some x.
        classes: what the model calls its K outputs, in their order; y holds these.
        people: identities `[n]`, or a mapping like data's. Rows of one person are never in two splits, and intervals
            draw people, not rows.
        what: how messages call the data.

    Raises:
        ValueError: shapes do not fit, a value is missing, a class or the attribute has too few values, or a person is
            in two splits.
    """
    parts = _parts(data, encode, classes, people)
    a, attributes = codes(np.concatenate([part.a for part in parts.values()]), "a")
    generator = torch.Generator().manual_seed(0)
    splits = _dealt(parts, a, len(attributes), generator)
    require_every_class({name: splits[name] for name in ("train", "val", "test")}, tuple(map(str, classes)))
    require_two_attributes(splits["train"], attributes, what)
    pairs = {name: matched_pairs(splits[name], generator) for name in ("val", "test")}
    m = parts["pairs"].m if "pairs" in parts else None
    pairs["pairs"] = _given_pairs(splits["pairs"], m) if m is not None else matched_pairs(splits["pairs"], generator)
    facts = {f"{name}.{key}": getattr(split, key) for name, split in splits.items() for key in ("x", "y", "a", "index")}
    return Dataset.from_parts(
        splits,
        pairs,
        classes=tuple(map(str, classes)),
        attributes=attributes,
        input_shape=tuple(splits["train"].x.shape[1:]),
        flippable=False,
        fingerprint=content_digest(facts)[:16],
    )


def first_rows(data: Any, n: int = 4) -> Any:
    """Return x of the first few rows of what `from_memory` takes.

    Raises:
        ValueError: it is nothing of that kind.
    """
    rows = next(iter(data.values()), ()) if isinstance(data, Mapping) else data
    if not isinstance(rows, tuple | list):
        rows = next(iter(rows), ()) if isinstance(rows, Iterable) else ()
    if not isinstance(rows, tuple | list) or not rows:
        raise ValueError(f"data is a {type(data).__name__}; {_FORMS}")
    x = rows[0]
    if isinstance(x, Mapping):
        return {name: value[:n] for name, value in x.items()}
    return x.iloc[:n] if hasattr(x, "iloc") else x[:n]


def require_repeatable(data: Any) -> None:
    """Refuse what can be read only once: it is looked at before it is read as a whole.

    Raises:
        ValueError: data, or the rows under a name, are an iterator.
    """
    for name, rows in data.items() if isinstance(data, Mapping) else [("data", data)]:
        if isinstance(rows, Iterator):
            raise ValueError(f"{name} is a {type(rows).__name__}, which can be read only once: give arrays or a loader")


def _parts(data: Any, encode: Callable[[Any], Tensor], classes: Sequence[Any], people: Any) -> dict[str, _Part]:
    """Read the rows under each name; those that are still to be dealt out under the empty name."""
    if not isinstance(data, Mapping):
        return {"": _part(data, encode, classes, people, "data")}
    unknown, missing = sorted(set(data) - set(SPLITS)), sorted({"train", "val", "test"} - set(data))
    if unknown or missing:
        fault = f"has no {', '.join(missing)}" if missing else f"names {some(unknown)}"
        raise ValueError(f"data {fault}; its names are train, val, test and, if you like, pairs")
    if people is not None and (not isinstance(people, Mapping) or set(people) != set(data)):
        raise ValueError(f"people must be a mapping of {', '.join(data)} to identities, as data is one to rows")
    whose = people or {}
    return {
        name: _part(rows, encode, classes, whose.get(name), name, counterfactuals=name == "pairs")
        for name, rows in data.items()
    }


def _part(
    rows: Any,
    encode: Callable[[Any], Tensor],
    classes: Sequence[Any],
    people: Any,
    name: str,
    *,
    counterfactuals: bool = False,
) -> _Part:
    """Read the rows of one name."""
    if people is not None and isinstance(getattr(rows, "sampler", None), RandomSampler):
        raise ValueError(f"{name}: people are in the order of the rows, but this loader shuffles: shuffle=False")
    columns = _columns(rows, name)
    m = None
    if len(columns) == 5 and counterfactuals:
        x, x_cf, y, a, a_cf = columns
        x, y, a = torch.cat([encode(x), encode(x_cf)]), np.concatenate([y, y]), np.concatenate([a, a_cf])
        people = None if people is None else np.concatenate([_column(people, "people")] * 2)
        m = len(y) // 2
    elif len(columns) == 3:
        x, y, a = columns
        x = encode(x)
    else:
        raise ValueError(f"{name}: there are {len(columns)} entries; {_FORMS}")
    lengths = {"x": len(x), "y": len(y), "a": len(a)} | ({} if people is None else {"people": len(people)})
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name}: x, y, a and people must have as many rows, but have {lengths}")
    _require_finite(x, name)
    return _Part(x, _labels(y, classes, name), a, None if people is None else _column(people, "people"), m)


def _columns(rows: Any, name: str) -> tuple[Any, ...]:
    """Return x, y, a (or x, x_cf, y, a, a_cf) of arrays, or of all batches of a loader; y and a as arrays."""
    if isinstance(rows, tuple | list):
        columns = tuple(rows)
    elif isinstance(rows, Iterable) and not isinstance(rows, str | bytes | np.ndarray | Tensor):
        batches = [tuple(batch) if isinstance(batch, tuple | list) else (batch,) for batch in rows]
        if not batches or len({len(batch) for batch in batches}) != 1:
            raise ValueError(f"{name}: the loader gives {'no' if not batches else 'unlike'} batches; {_FORMS}")
        columns = tuple(_joined(column) for column in zip(*batches, strict=True))
    else:
        raise ValueError(f"{name} is a {type(rows).__name__}; {_FORMS}")
    first = {5: 2}.get(len(columns), 1)
    return columns[:first] + tuple(_column(column, name) for column in columns[first:])


def _joined(batches: Sequence[Any]) -> Any:
    """Join what a loader gives batch by batch."""
    first = batches[0]
    if isinstance(first, Mapping):
        return {key: torch.cat([batch[key] for batch in batches]) for key in first}
    if isinstance(first, Tensor):
        return torch.cat([batch.detach().cpu() for batch in batches])
    return np.concatenate([np.asarray(batch) for batch in batches])


def _column(values: Any, name: str) -> np.ndarray:
    """Return labels as an array of one dimension."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype == object or array.dtype.kind == "T":  # as pandas keeps strings
        array = np.array([str(value) for value in array]) if array.ndim == 1 else array
    if array.ndim != 1:
        raise ValueError(f"{name}: y, a and people must be of shape [n], but one of them has {list(array.shape)}")
    return array


def _labels(y: np.ndarray, classes: Sequence[Any], name: str) -> Tensor:
    """Number labels by the model's classes."""
    numbers = {value: i for i, value in enumerate(classes)}
    known = [str(value) for value in classes]
    unknown = sorted({str(value) for value in np.unique(y).tolist() if value not in numbers})
    if unknown:
        raise ValueError(
            f"{name}: y holds {some(unknown)}, which the model does not know: its classes are {some(known)}"
        )
    return torch.tensor([numbers[value] for value in y.tolist()], dtype=torch.int64)


def _require_finite(x: Tensor, name: str) -> None:
    if x.is_floating_point() and not bool(x.isfinite().all()):
        row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"{name}: x holds NaN or infinite values, first in row {row}: fill them in, or drop the row")


def _dealt(parts: dict[str, _Part], a: Tensor, n_attributes: int, generator: torch.Generator) -> dict[str, TensorSplit]:
    """Give each split its rows: those of its name, or a share."""
    x, y = (torch.cat([getattr(part, key) for part in parts.values()]) for key in ("x", "y"))
    bounds = np.cumsum([0, *(len(part) for part in parts.values())])
    rows = {
        name: torch.arange(int(start), int(end)) for name, start, end in zip(parts, bounds, bounds[1:], strict=False)
    }
    cluster = _clusters(parts)
    strata = groups(y, a, n_attributes)
    source, shares = ("", RATIOS) if "" in rows else ("train", {"train": 0.9, "pairs": 0.1})
    if "pairs" not in rows:
        members = rows.pop(source)
        within = None if cluster is None else cluster[members]
        dealt = dealt_parts(strata[members], shares, generator, within)
        rows |= {name: members[part] for name, part in dealt.items()}
    return {
        name: TensorSplit(
            index=rows[name],
            y=y[rows[name]],
            a=a[rows[name]],
            x=x[rows[name]],
            cluster=None if cluster is None else cluster[rows[name]],
        )
        for name in SPLITS
    }


def _clusters(parts: Mapping[str, _Part]) -> Tensor | None:
    """Number people over all parts; None where they are not given. ValueError if one is in two parts."""
    identities = [part.people for part in parts.values() if part.people is not None]
    if not identities:
        return None
    cluster = torch.from_numpy(np.unique(np.concatenate(identities), return_inverse=True)[1].astype(np.int64))
    require_whole(np.repeat(list(parts), [len(part) for part in parts.values()]), cluster, "data")
    return cluster


def _given_pairs(split: TensorSplit, m: int) -> Pairs:
    """Return the pairs of rows i and m + i."""
    rows, rows_cf = torch.arange(m), torch.arange(m, 2 * m)
    return Pairs(split=split, rows=rows, rows_cf=rows_cf, a=split.a[rows], a_cf=split.a[rows_cf])
