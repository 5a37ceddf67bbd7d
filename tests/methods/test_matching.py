from dataclasses import replace

import pytest
import torch

from efface.methods.base import NotApplicable
from efface.methods.matching import nearest, rematched, require_matching
from efface.problem import Problem


def test_nearest_has_the_same_label_and_another_attribute() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 5, generator=g) * torch.tensor([1.0, 10.0, 0.1, 3.0, 0.0])
    y, a = torch.randint(2, (1500,), generator=g), torch.randint(3, (1500,), generator=g)
    partner = nearest(x, y, a)
    assert torch.equal(y[partner], y)
    assert (a[partner] != a).all()
    std = x[:, :4].std(0, correction=0)
    for i in (0, 700, 1499):
        candidates = ((y == y[i]) & (a != a[i])).nonzero()[:, 0]
        distance = ((x[candidates, :4] - x[i, :4]) / std).norm(dim=1)
        assert int(partner[i]) == int(candidates[distance.argmin()])


def test_rematched_pairs_are_closer(two_classes: Problem) -> None:
    cluster = torch.arange(len(two_classes.pairs))
    problem = replace(two_classes, flippable=False, pairs=replace(two_classes.pairs, cluster=cluster))
    again = rematched(problem, "nearest")
    assert torch.equal(again.pairs.x, problem.pairs.x)
    assert torch.equal(again.pairs_cf.y, problem.pairs.y)
    assert (again.pairs_cf.a != problem.pairs.a).all()
    partner = again.pairs_cf.cluster
    assert partner is not None
    assert torch.equal(again.pairs_cf.x, problem.pairs.x[partner])
    before, after = ((p.pairs.x - p.pairs_cf.x).norm(dim=1).mean() for p in (shuffled(problem), again))
    assert after < 0.9 * before
    assert rematched(problem, "given") is problem


def shuffled(problem: Problem) -> Problem:
    """Partners drawn at random, as where pairs are two samples."""
    pairs, rows = problem.pairs, []
    g = torch.Generator().manual_seed(0)
    for i in range(len(pairs)):
        candidates = ((pairs.y == pairs.y[i]) & (pairs.a != pairs.a[i])).nonzero()[:, 0]
        rows.append(int(candidates[torch.randint(len(candidates), (1,), generator=g)]))
    return replace(problem, pairs_cf=pairs.take(torch.tensor(rows)))


def test_matching_says_what_cannot_be_matched(two_classes: Problem) -> None:
    require_matching(two_classes, "given")
    for refuse in (require_matching, rematched):
        with pytest.raises(NotApplicable, match="one sample under two attributes"):
            refuse(two_classes, "nearest")
    with pytest.raises(ValueError, match="no sample has label 1 and another attribute than 0"):
        nearest(torch.randn(3, 2), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
