"""Pairs of unlike people, matched again by what the model sees."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from efface.problem import Features, Problem

Matching = Literal["given", "nearest"]
MATCHINGS: tuple[Matching, ...] = ("given", "nearest")
_ROWS = 1024


def rematched(problem: Problem, matching: Matching) -> Problem:
    """The problem with the pairs of the data set (`given`), or each sample with its `nearest` partner.

    Partners are the samples of one label and another attribute among the pairs; near is what is near in the features,
    each scaled by its standard deviation over the pairs.

    Cost: O(n² d) for n pairs, in blocks of 1,024 rows.
    """
    if matching == "given" or len(problem.pairs) == 0:
        return problem
    own = problem.pairs
    rows = nearest(own.x, own.y, own.a)
    cluster = None if own.cluster is None else own.cluster[rows]
    return replace(problem, pairs_cf=Features(own.x[rows], own.y[rows], own.a[rows], cluster=cluster))


def nearest(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """The row of the nearest sample of the same label and another attribute, `[n]`.

    Args:
        x: features `[n, d]`.
        y, a: labels and attributes `[n]`.

    Raises:
        ValueError: a sample has no partner.
    """
    std = x.std(0, correction=0)
    x = x / torch.where(std > 0, std, 1)
    found = []
    for rows in torch.arange(len(x), device=x.device).split(_ROWS):
        distance = torch.cdist(x[rows], x)
        unlike = (y[rows, None] != y) | (a[rows, None] == a)
        distance = distance.masked_fill(unlike, torch.inf)
        least, where = distance.min(1)
        if least.isinf().any():
            row = int(rows[least.isinf()][0])
            raise ValueError(f"no sample has label {int(y[row])} and another attribute than {int(a[row])}")
        found.append(where)
    return torch.cat(found)


def why_not(problem: Problem, matching: Matching) -> str | None:
    """Why pairs cannot be matched so, or None."""
    if matching == "nearest" and problem.flippable:
        return "matching=nearest: a pair is one sample under two attributes here, and needs no match"
    return None
