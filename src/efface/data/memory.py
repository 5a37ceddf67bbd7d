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
    "data must be (x, y, a), with counterfactuals (x, x_cf, y, a, a_cf), a DataLoader of such batches, or a mapping of "
    "either to the names train, val, test and, if you like, pairs"
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
    """Where counterfactuals are given, row m + i is that of row i, and there are 2 m rows; else None."""

    def __len__(self) -> int:
        return len(self.y)


def from_memory(
    data: Any, *, encode: Callable[[Any], Tensor], classes: Sequence[Any], people: Any = None, what: str = "data"
) -> Dataset:
    """Make a data set of what a caller holds. Rows without a split are dealt out, stratified by label and attribute.

    Args:
        data: `(x, y, a)`; `(x, x_cf, y, a, a_cf)`, each sample and its counterfactual; a DataLoader of such batches; or
            a mapping of these to `train`, `val`, `test` and, if you like, `pairs`. Without pairs, a tenth of train is
            set aside for them. Pairs are samples and their counterfactuals where these are given, and otherwise two
            samples of one label, matched at random.
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
    _require_known(parts, a, attributes)
    generator = torch.Generator().manual_seed(0)
    rows = _dealt(parts, a, len(attributes), generator)
    every, partner = _every_row(parts, a), _partners(parts)
    splits = {name: _taken(every, members) for name, members in rows.items()}
    require_every_class({name: splits[name] for name in ("train", "val", "test")}, tuple(map(str, classes)))
    require_two_attributes(splits["train"], attributes, what)
    pairs = {
        name: _with_counterfactuals(every, rows[name], partner[rows[name]])
        if bool((partner[rows[name]] >= 0).all())
        else matched_pairs(splits[name], generator)
        for name in ("val", "test", "pairs")
    }
    read = {**splits, "pairs": pairs["pairs"].split}
    read |= {f"{name}_cf": pairs[name].split for name in ("val", "test") if pairs[name].counterfactual}
    facts = {f"{name}.{key}": getattr(split, key) for name, split in read.items() for key in ("x", "y", "a", "index")}
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
    return {name: _part(rows, encode, classes, whose.get(name), name) for name, rows in data.items()}


def _part(rows: Any, encode: Callable[[Any], Tensor], classes: Sequence[Any], people: Any, name: str) -> _Part:
    """Read the rows of one name."""
    if people is not None and isinstance(getattr(rows, "sampler", None), RandomSampler):
        raise ValueError(f"{name}: people are in the order of the rows, but this loader shuffles: shuffle=False")
    columns = _columns(rows, name)
    m = None
    if len(columns) == 5:
        x, x_cf, y, a, a_cf = columns
        x, x_cf, m = encode(x), encode(x_cf), len(y)
        _require_counterfactuals(x, x_cf, a, a_cf, m, name)
        x, y, a = torch.cat([x, x_cf]), np.concatenate([y, y]), np.concatenate([a, a_cf])
        people = None if people is None else np.concatenate([_column(people, "people")] * 2)
    else:
        x, y, a = columns
        x = encode(x)
    lengths = {"x": len(x), "y": len(y), "a": len(a)} | ({} if people is None else {"people": len(people)})
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name}: x, y, a and people must have as many rows, but have {lengths}")
    _require_finite(x[:m], name, "x")
    if m is not None:
        _require_finite(x[m:], name, "x_cf")
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
    if len(columns) not in (3, 5):
        raise ValueError(f"{name}: there are {len(columns)} entries; {_FORMS}")
    first = 2 if len(columns) == 5 else 1
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
        raise ValueError(
            f"{name}: y, a and people must be of shape [n], but one of them has {list(array.shape)}; {_FORMS}"
        )
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


def _require_finite(x: Tensor, name: str, what: str) -> None:
    if x.is_floating_point() and not bool(x.isfinite().all()):
        row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"{name}: {what} holds NaN or infinite values, first in row {row}: fill them in, or drop the row"
        )


def _require_counterfactuals(x: Tensor, x_cf: Tensor, a: np.ndarray, a_cf: np.ndarray, m: int, name: str) -> None:
    """Check that each of the m samples has its counterfactual, of the same shape and under another attribute."""
    lengths = {"x": len(x), "x_cf": len(x_cf), "y": m, "a": len(a), "a_cf": len(a_cf)}
    if len(set(lengths.values())) > 1 or x.shape != x_cf.shape:
        raise ValueError(
            f"{name}: a row of x_cf is the counterfactual of that row of x, so that both must be of one shape, and y, "
            f"a and a_cf have as many rows; x is {list(x.shape)}, x_cf {list(x_cf.shape)}, and the rows are {lengths}"
        )
    same = np.flatnonzero(a == a_cf)
    if len(same):
        raise ValueError(
            f"{name}: a_cf equals a in {len(same)} of {m} rows, first in row {same[0]}: a counterfactual is the sample "
            "under another attribute"
        )


def _require_known(parts: Mapping[str, _Part], a: Tensor, attributes: Sequence[str]) -> None:
    """ValueError if counterfactuals have an attribute that no sample has, and that no metric could compare."""
    own = torch.cat([torch.arange(len(part)) < (len(part) if part.m is None else part.m) for part in parts.values()])
    unknown = sorted(set(a[~own].tolist()) - set(a[own].tolist()))
    if unknown:
        raise ValueError(f"a_cf holds {some([attributes[value] for value in unknown])}, which no sample has in a")


def _dealt(parts: dict[str, _Part], a: Tensor, n_attributes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the rows of each split, those of its name or a share, among the rows of all parts one after the other."""
    first = np.cumsum([0, *(len(part) for part in parts.values())]).tolist()
    rows = {
        name: torch.arange(start, start + (len(part) if part.m is None else part.m))
        for (name, part), start in zip(parts.items(), first, strict=False)
    }
    cluster = _clusters(parts)
    source, shares = ("", RATIOS) if "" in rows else ("train", {"train": 0.9, "pairs": 0.1})
    if "pairs" not in rows:
        members = rows.pop(source)
        strata = groups(torch.cat([part.y for part in parts.values()])[members], a[members], n_attributes)
        dealt = dealt_parts(strata, shares, generator, None if cluster is None else cluster[members])
        rows |= {name: members[part] for name, part in dealt.items()}
    return {name: rows[name] for name in SPLITS}


def _partners(parts: Mapping[str, _Part]) -> Tensor:
    """Return the row `[n]` of each row's counterfactual; −1 where none is given, or it is one itself."""
    partners, start = [], 0
    for part in parts.values():
        partner = torch.full((len(part),), -1)
        if part.m is not None:
            partner[: part.m] = start + part.m + torch.arange(part.m)
        partners.append(partner)
        start += len(part)
    return torch.cat(partners)


def _every_row(parts: Mapping[str, _Part], a: Tensor) -> TensorSplit:
    """Return the rows of all parts, one after the other."""
    x, y = (torch.cat([getattr(part, key) for part in parts.values()]) for key in ("x", "y"))
    return TensorSplit(index=torch.arange(len(y)), y=y, a=a, x=x, cluster=_clusters(parts))


def _taken(split: TensorSplit, rows: Tensor) -> TensorSplit:
    """Return some rows of a split."""
    cluster = None if split.cluster is None else split.cluster[rows]
    return TensorSplit(index=split.index[rows], y=split.y[rows], a=split.a[rows], x=split.x[rows], cluster=cluster)


def _clusters(parts: Mapping[str, _Part]) -> Tensor | None:
    """Number people over all parts; None where they are not given. ValueError if one is in two parts."""
    identities = [part.people for part in parts.values() if part.people is not None]
    if not identities:
        return None
    cluster = torch.from_numpy(np.unique(np.concatenate(identities), return_inverse=True)[1].astype(np.int64))
    require_whole(np.repeat(list(parts), [len(part) for part in parts.values()]), cluster, "data")
    return cluster


def _with_counterfactuals(every: TensorSplit, rows: Tensor, rows_cf: Tensor) -> Pairs:
    """Return the pairs of rows `[m]` and of their counterfactuals `[m]` among all rows."""
    split, m = _taken(every, torch.cat([rows, rows_cf])), len(rows)
    first, second = torch.arange(m), torch.arange(m, 2 * m)
    return Pairs(split=split, rows=first, rows_cf=second, a=split.a[first], a_cf=split.a[second], counterfactual=True)
