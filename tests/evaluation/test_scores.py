import pytest
import torch
from scipy.stats import energy_distance

from efface.evaluation.scores import conditional_score_gap, score_energy_distance


def scores(n: int = 400, m: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    y, a = torch.randint(3, (n,), generator=g), torch.randint(m, (n,), generator=g)
    return (torch.rand(n, generator=g).double() + 0.2 * a) / 1.5, y, a


def test_the_gap_is_signed_and_within_each_label() -> None:
    p, y, a = scores()
    for k, gap in enumerate(conditional_score_gap(p, y, a, 3)):
        assert gap == pytest.approx(float(p[(y == k) & (a == 0)].mean() - p[(y == k) & (a == 1)].mean()))
        assert gap < 0
    assert str(conditional_score_gap(p[a == 0], y[a == 0], a[a == 0], 3)[0]) == "nan"


def test_energy_distance_equals_that_of_scipy() -> None:
    p, y, a = scores()
    p = (20 * p).round() / 20  # with ties
    for k, distance in enumerate(score_energy_distance(p, y, a, 3)):
        u, v = (p[(y == k) & (a == value)].numpy() for value in (0, 1))
        assert distance == pytest.approx(energy_distance(u, v), rel=1e-9)


def test_many_values_are_compared_in_pairs_and_one_with_none() -> None:
    p, y, a = scores(m=3)
    (first, *_) = score_energy_distance(p, y, a, 3)
    parts = [p[(y == 0) & (a == value)].numpy() for value in range(3)]
    pairs = [energy_distance(parts[i], parts[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert first == pytest.approx(sum(pairs) / 3)
    assert str(score_energy_distance(p[a == 1], y[a == 1], a[a == 1], 3)[0]) == "nan"


def test_equal_distributions_have_no_distance_and_a_shift_has_one() -> None:
    p = torch.linspace(0, 1, 50).double().repeat(2)
    y, a = torch.zeros(100, dtype=torch.int64), torch.arange(100) // 50
    assert score_energy_distance(p, y, a, 1)[0] == pytest.approx(0, abs=1e-7)
    assert score_energy_distance(p + 0.5 * a, y, a, 1)[0] > 0.3
