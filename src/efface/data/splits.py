"""Which rows are train, val, pairs and test: by a column that names them, or dealt out in shares."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from efface.data.base import SPLITS, stratified_split
from efface.data.people import deal
from efface.data.text import some
from efface.options import Gt, Len

Ratios = Annotated[Sequence[Annotated[float, Gt(0)]], Len(4, 4)]
"""Shares of train, val, pairs and test."""

_WORDS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
"""Other names that published tables give to the parts."""
_NUMBERS = {"0": "train", "1": "val", "2": "test"}
"""Those of group DRO's tables."""


def require_shares(ratios: Sequence[float]) -> None:
    """Check that shares sum to 1."""
    if not np.isclose(sum(ratios), 1):
        raise ValueError(
            f"ratios is {list(ratios)}, but must be four positive shares of {', '.join(SPLITS)} that sum to 1"
        )


def dealt_parts(
    strata: Tensor, shares: Mapping[str, float], generator: torch.Generator, cluster: Tensor | None = None
) -> dict[str, Tensor]:
    """Deal rows out to named parts, each stratum in the same shares as nearly as whole rows, or clusters, allow.

    Args:
        strata: `[n]` int64.
        shares: due to each part, together 1; the first gets what does not divide.
        generator: draws who is where. Of clusters nothing is drawn.
        cluster: `[n]` int64: rows of one value go to one part. None if all are independent.

    Returns:
        Sorted row numbers of each part.
    """
    if cluster is not None:
        part = deal(strata, cluster, list(shares.values()))
        return {name: (part == i).nonzero()[:, 0] for i, name in enumerate(shares)}
    n = len(strata)
    sizes = {name: int(share * n) for name, share in shares.items()}
    sizes[next(iter(sizes))] += n - sum(sizes.values())
    return stratified_split(strata, sizes, generator)


def named_rows(names: np.ndarray, what: str) -> dict[str, Tensor]:
    """Return the rows of each split that an array `[n]` of strings names.

    Raises:
        ValueError: it names another, or gives no row to train, val or test; the message says what the array is.
    """
    unknown = sorted(set(names.tolist()) - set(SPLITS))
    if unknown:
        raise ValueError(f"{what} holds {some(unknown)}, but may only hold {', '.join(SPLITS)}")
    parts = {name: torch.from_numpy(np.flatnonzero(names == name)) for name in SPLITS}
    empty = [name for name in ("train", "val", "test") if len(parts[name]) == 0]
    if empty:
        raise ValueError(f"{what} gives no row to {', '.join(empty)}")
    return parts


def named_parts(
    names: np.ndarray, what: str, *, strata: Tensor, ratios: Sequence[float], cluster: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the rows of each split, by names that published tables use; pairs are part of the official val.

    Where no row is named `pairs`, val is halved into val and pairs, whole clusters and as equally as these allow. Where
    there is no val either, val and pairs are taken out of train, in their shares of it.

    Args:
        names: `[n]` strings: `train`, `val`, `pairs` and `test`, or words and numbers that stand for them: `dev`, 0.
        what: the array is, for messages.
        strata: `[n]` int64: the parts get each of its values evenly.
        ratios: of train, val, pairs and test; the last one is not used.
        cluster: `[n]` int64: rows of one value are in one split. None if all are independent.

    Raises:
        ValueError: a name is none, a split has no row, or a cluster is in two splits.
    """
    lower = np.char.lower(names.astype(str))
    meaning = _NUMBERS if set(lower.tolist()) <= set(_NUMBERS) else _WORDS
    known = np.array([meaning.get(name, name) for name in lower.tolist()], dtype=object)
    occurring = set(known.tolist())
    if cluster is not None:
        require_whole(known, cluster, what)
    if "pairs" not in occurring:
        source = "val" if "val" in occurring else "train"
        shares = dict(zip(SPLITS[:3], ratios[:3], strict=True)) if source == "train" else {"val": 0.5, "pairs": 0.5}
        shares = {name: share / sum(shares.values()) for name, share in shares.items()}
        rows = torch.from_numpy(np.flatnonzero(known == source))
        within = None if cluster is None else cluster[rows]
        inner = dealt_parts(strata[rows], shares, torch.Generator().manual_seed(0), within)
        for name, members in inner.items():
            known[rows[members].numpy()] = name
    return named_rows(known, what)


def require_whole(names: np.ndarray, cluster: Tensor, what: str) -> None:
    """Check that the rows of each cluster have one name.

    Args:
        names: `[n]`: of the split of each row.
        cluster: `[n]` int64.
        what: gives the names, for the message.

    Raises:
        ValueError: a cluster has two.
    """
    _, numbers = np.unique(names, return_inverse=True)
    first: dict[int, int] = {}
    for row, (name, number) in enumerate(zip(cluster.tolist(), numbers.tolist(), strict=True)):
        if first.setdefault(name, row) != row and numbers[first[name]] != number:
            raise ValueError(
                f"{what} puts one identity into two splits, {names[first[name]]} (row {first[name]}) and {names[row]} "
                f"(row {row}): features tell people apart, and a probe would learn that. Split by whole identities, or "
                "leave the column out, so that they are dealt out whole"
            )
