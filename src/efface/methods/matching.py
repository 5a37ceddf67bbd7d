"""Pair samples of different people anew, by what the model sees of them."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from efface.methods.base import NotApplicable
from efface.problem import Problem

Matching = Literal["given", "nearest"]
_ROWS = 1024


def rematched(problem: Problem, matching: Matching) -> Problem:
    """Return the problem with the pairs of the data set (`given`), or with each sample and its `nearest` partner.

    Partners have the same label and another attribute, and are drawn from the pairs. Distances are between features,
    each in units of its standard deviation over the pairs.

    Cost: O(n² d) for n pairs, in blocks of 1,024 rows.

    Raises:
        NotApplicable: a pair is one sample under two attributes, so that there is nothing to match.
        ValueError: a sample has no partner.
    """
    require_matching(problem, matching)
    if matching == "given" or len(problem.pairs) == 0:
        return problem
    pairs = problem.pairs
    return replace(problem, pairs_cf=pairs.take(nearest(pairs.x, pairs.y, pairs.a)))


def require_matching(problem: Problem, matching: Matching) -> None:
    """Require pairs that can be matched so.

    Raises:
        NotApplicable: a pair is one sample under two attributes, so that there is nothing to match.
    """
    if matching == "nearest" and problem.flippable:
        raise NotApplicable(
            "matching=nearest: a pair is one sample under two attributes here, and needs no match; use matching=given"
        )


def nearest(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """Find the nearest sample of the same label and another attribute for each sample: its row, `[n]`.

    Args:
        x: features `[n, d]`.
        y: labels `[n]`.
        a: attributes `[n]`.

    Raises:
        ValueError: a sample has no partner.
    """
    std = x.std(0, correction=0)
    x = x / torch.where(std > 0, std, 1)
    partners = []
    for rows in torch.arange(len(x), device=x.device).split(_ROWS):
        distance = torch.cdist(x[rows], x)
        excluded = (y[rows, None] != y) | (a[rows, None] == a)
        least, partner = distance.masked_fill(excluded, torch.inf).min(1)
        if least.isinf().any():
            row = int(rows[least.isinf()][0])
            raise ValueError(f"no sample has label {int(y[row])} and another attribute than {int(a[row])}")
        partners.append(partner)
    return torch.cat(partners)
