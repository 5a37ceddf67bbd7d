"""What word vectors associate: WEAT, the agreement with human judgements of similarity, and nearest neighbours."""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_MOST = 200_000
"""Partitions that are gone through one by one."""
_CLOSE = 1e-12
"""Differences of cosines that are smaller are rounding."""


class Weat(NamedTuple):
    """The result of one word-embedding association test."""

    d: float
    """The effect size; NaN if all targets have the same association."""
    p: float
    """The one-sided p-value."""


def weat(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Weat:
    """Test whether target words x are associated with attributes a, rather than b, more than target words y are.

    Caliskan, Bryson and Narayanan, 2017. The association of a word is its mean cosine with a minus that with b. The
    effect size d is the difference of its means over x and over y, in units of its standard deviation over all targets
    (ddof 0). The p-value is exact: the share of all partitions of the targets into sets of these sizes whose difference
    is at least that of x and y. The given partition is one of them, so that p is never 0.

    Args:
        x, y: vectors of the targets `[n, d]` and `[m, d]`; n and m may differ.
        a, b: vectors of the attributes.

    Raises:
        ValueError: a set is empty, a vector is 0, or there are more than 200,000 partitions.

    Cost: O((n + m) d) and the partitions, 12,870 for eight words on either side.
    """
    n, total = len(x), len(x) + len(y)
    if min(map(len, (x, y, a, b))) == 0:
        raise ValueError(f"x, y, a and b have {n}, {len(y)}, {len(a)} and {len(b)} words, but each needs one at least")
    if math.comb(total, n) > _MOST:
        raise ValueError(f"x and y have {n} and {len(y)} words: {math.comb(total, n):,} partitions are too many")
    targets = _unit(torch.cat([x, y]))
    association = (targets @ _unit(a).T).mean(1) - (targets @ _unit(b).T).mean(1)
    spread = association.std(correction=0)
    difference = association[:n].mean() - association[n:].mean()
    # Given the sizes, the difference of means grows with the sum over the first set.
    # Not torch.combinations, which makes a grid of total^n entries first.
    parts = torch.tensor(list(itertools.combinations(range(total), n)), device=x.device)
    sums = association[parts].sum(1)
    at_least = sums >= association[:n].sum() - _CLOSE
    d = float(difference / spread) if float(spread) > _CLOSE else math.nan
    return Weat(d, float(at_least.double().mean()))


def simlex(first: Tensor, second: Tensor, human: Tensor) -> float:
    """Return Pearson's correlation of the cosines of pairs of words with human judgements of their similarity.

    Hill, Reichart and Korhonen, 2015, have Spearman's correlation; Ravfogel et al., 2022, have Pearson's. NaN if either
    is constant.

    Args:
        first, second: vectors `[n, d]` of the words of each pair.
        human: `[n]`.
    """
    cosines = (_unit(first) * _unit(second)).sum(1)
    return float(torch.corrcoef(torch.stack([cosines, human.to(cosines)]))[0, 1])


def nearest(vectors: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the rows of the k nearest vectors of each row by the cosine, without itself, `[len(rows), k]`."""
    unit = functional.normalize(vectors, dim=1)
    cosines = unit[rows] @ unit.T
    cosines[torch.arange(len(rows)), rows] = -math.inf
    return cosines.topk(k, dim=1).indices


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors `[n, d]` over their lengths, in float64."""
    norms = vectors.double().norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise ValueError(f"{int((norms == 0).sum())} of {len(vectors)} vectors are 0, and have no direction")
    return torch.div(vectors.double(), norms)
