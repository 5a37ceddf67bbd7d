"""Features: samples taken, weighted and joined."""

import pytest
import torch

from efface.problem import Features


def features(n: int, *, weight: bool = True, cluster: bool = True) -> Features:
    return Features(
        torch.arange(2.0 * n).view(n, 2),
        torch.arange(n),
        torch.arange(n) % 2,
        weight=torch.arange(n) + 0.5 if weight else None,
        cluster=torch.arange(n) // 2 if cluster else None,
    )


@pytest.mark.parametrize(
    "rows", [torch.tensor([4, 1]), torch.tensor([False, True, False, False, True]), slice(1, None, 3)]
)
def test_take_keeps_weights_and_clusters(rows: torch.Tensor | slice) -> None:
    taken = features(5).take(rows)
    assert sorted(taken.y.tolist()) == [1, 4]
    assert torch.equal(taken.x[:, 0], 2.0 * taken.y)
    assert torch.equal(taken.a, taken.y % 2)
    assert torch.equal(taken.weight, taken.y + 0.5)  # type: ignore[arg-type]
    assert torch.equal(taken.cluster, taken.y // 2)  # type: ignore[arg-type]
    bare = features(5, weight=False, cluster=False).take(rows)
    assert bare.weight is None
    assert bare.cluster is None


def test_weighted_keeps_clusters() -> None:
    data = features(3)
    weighted = data.weighted(torch.ones(3))
    assert torch.equal(weighted.weight, torch.ones(3))  # type: ignore[arg-type]
    assert weighted.cluster is data.cluster
    assert data.weighted(None).weight is None
    with pytest.raises(ValueError, match=r"weight has shape \[2\], but must be \[3\]"):
        data.weighted(torch.ones(2))


def test_sum_has_the_samples_of_both() -> None:
    both = features(2) + features(3)
    assert both.y.tolist() == [0, 1, 0, 1, 2]
    assert both.weight is not None
    assert both.weight.tolist() == [0.5, 1.5, 0.5, 1.5, 2.5]
    assert both.cluster is not None
    assert both.cluster.tolist() == [0, 0, 0, 0, 1]
    assert (features(2) + features(3, cluster=False)).cluster is None
    with pytest.raises(ValueError, match="only one of the two has weights"):
        features(2) + features(3, weight=False)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"have \[3, 3, 2\] rows, but must have as many"):
        Features(torch.zeros(3, 2), torch.zeros(3).long(), torch.zeros(2).long())
