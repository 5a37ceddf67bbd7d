"""Splits of data whose samples belong together, such as photographs of people: each person is in one part alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

FOLDS = 5
"""Folds of the people: each is test once."""
_SHARES = {"train": 6, "val": 1, "pairs": 1}
"""How the people who are not in test are dealt out: 60 %, 10 % and 10 % of all."""


def fold_parts(fold: int, *, strata: Tensor, group: Tensor, person: Tensor) -> dict[str, Tensor]:
    """Return the rows of train, val, pairs and test in one of the `FOLDS` folds of all people.

    Who is in test depends on `strata` and on the numbers of photographs alone; how the others are dealt out, on
    `group` too.

    Args:
        fold: 0 … `FOLDS` − 1.
        strata: `[n]` int64: the folds get each of its values evenly.
        group: `[n]` int64: train, val and pairs get each of its values evenly.
        person: `[n]` int64.

    Raises:
        ValueError: there are fewer people than folds.
    """
    if len(person.unique()) < FOLDS:
        raise ValueError(
            f"split is 'people', but the photographs at hand show {len(person.unique())} people, who make no {FOLDS} "
            "folds: take more photographs, or split=official"
        )
    in_test = deal(strata, person, [1] * FOLDS) == fold
    others = (~in_test).nonzero()[:, 0]
    part = deal(group[others], person[others], list(_SHARES.values()))
    parts = {name: others[part == number] for number, name in enumerate(_SHARES)}
    return parts | {"test": in_test.nonzero()[:, 0]}


def deal(strata: Tensor, cluster: Tensor, shares: Sequence[float]) -> Tensor:
    """Deal whole clusters out to parts, so that each gets its share of every stratum as nearly as they allow.

    Each cluster, the largest first, goes to the part where it makes the parts least unequal. Inequality is the sum,
    over parts, strata and the whole, of the squared share that a part has been dealt, divided by the share due to it:
    it is least where all parts have theirs. The earliest of equals; nothing is drawn.

    Args:
        strata: `[n]` int64.
        cluster: `[n]` int64.
        shares: due to each of the parts, in any unit.

    Returns:
        `[n]` int64: the number of each sample's part.
    """
    names, member = cluster.unique(return_inverse=True)
    k = int(strata.max()) + 1 if len(strata) else 1
    counts = torch.bincount(member * k + strata, minlength=len(names) * k).view(-1, k).double()
    counts = torch.cat([counts, counts.sum(1, keepdim=True)], 1)
    dealt = (counts / counts.sum(0).clamp_min(1)).numpy()
    factor = sum(shares) / np.asarray(shares, dtype=float)
    # A cluster v adds (2 s·v + |v|²) · factor to the inequality of a part that has s. Less the same number for all
    # parts, and halved: surplus · v + handicap · |v|², where the surplus of a part is s · factor − what all have.
    handicap = (factor - factor.min()) / 2
    surplus = np.zeros((len(shares), k + 1))
    part = np.zeros(len(names), dtype=np.int64)
    for i in np.lexsort((names.numpy(), -counts[:, -1].numpy())):
        v = dealt[i]
        part[i] = np.argmin([row @ v for row in surplus] + handicap * (v @ v))
        change = np.where(np.arange(len(shares)) == part[i], factor - 1, -1)
        surplus += change[:, None] * v
    return torch.from_numpy(part)[member]
