import pytest
import torch
from torch import Tensor, nn

from efface.unlearning.edits import external, removable
from efface.unlearning.head import Head
from efface.unlearning.layers import Layers
from efface.unlearning.objective import TrainingObjective
from efface.unlearning.path import MULTIPLES, PathPoint, penalty_path


def problem(n: int = 300, d: int = 8, k: int = 3) -> tuple[TrainingObjective, Tensor]:
    """Standardised features that overlap, and a head far from the minimum."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % k
    x = torch.randn(n, d, generator=g) + nn.functional.one_hot(y, d)
    theta = torch.randn(k, d + 1, generator=g, dtype=torch.float64)
    return TrainingObjective(x=(x - x.mean(0)) / x.std(0), y=y), theta


def gap(point: PathPoint, centre: Tensor) -> float:
    return float((point.minimum.theta - centre).norm())


@pytest.mark.parametrize("k", [2, 3])
def test_path_goes_from_where_nothing_moves_to_the_minimum(k: int) -> None:
    objective, centre = problem(k=k)
    head = Head(n_classes=k, tol=1e-7)
    points = list(penalty_path(head, objective, centre))
    assert len(points) >= 8
    f = head.objective(objective)
    error = f.logits(centre).softmax(1) - nn.functional.one_hot(objective.y, k)
    change = f.logits(points[0].minimum.theta) - f.logits(centre)
    assert 0 < float(change.square().sum(1).mean().sqrt()) < float(error.square().sum(1).mean().sqrt()) / 5
    last = points[-1].minimum.theta
    assert float(f.gradient(last, f.logits(last).softmax(1)).abs().max()) < 2e-7, "at the minimum of the loss alone"
    assert not any(point.cut_short for point in points[:-1])
    steps = [point.minimum.iterations for point in points]
    assert [point.steps for point in points] == [sum(steps[: i + 1]) for i in range(len(steps))]
    gaps = [gap(point, centre) for point in points]
    assert gaps == sorted(gaps)
    losses = [float(f.loss(f.logits(point.minimum.theta))) for point in points]
    assert losses == sorted(losses, reverse=True)


def test_points_are_minima_and_are_found_from_scratch_too() -> None:
    objective, centre = problem()
    head = Head(n_classes=3, tol=1e-8)
    warm, cold = (
        list(penalty_path(head, objective, centre, (1e-3, 1.0, 1e-1), from_scratch=from_scratch))
        for from_scratch in (False, True)
    )
    assert [point.multiple for point in warm] == [1.0, 1e-1, 1e-3]
    assert [point.cut_short for point in warm] == [False, False, True]
    assert [point.steps for point in cold] == [point.minimum.iterations for point in cold]
    for one, other in zip(warm, cold, strict=True):
        theta = one.minimum.theta
        f = head.objective(TrainingObjective(x=objective.x, y=objective.y, l2=one.l2, centre=centre))
        assert float(f.gradient(theta, f.logits(theta).softmax(1)).abs().max()) <= 1e-8
        torch.testing.assert_close(theta, other.minimum.theta, atol=1e-5, rtol=0)
    assert sum(point.minimum.iterations for point in cold) > sum(point.minimum.iterations for point in warm)


def test_unit_of_the_penalty_is_the_largest_curvature() -> None:
    objective, centre = problem()
    weight = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weighted = TrainingObjective(x=objective.x, y=objective.y, weight=weight)
    x = torch.cat([objective.x.double(), torch.ones(300, 1, dtype=torch.float64)], 1)
    moments = (x * (weight / weight.sum())[:, None]).mT @ x
    exact = float(torch.linalg.eigvalsh(moments)[-1]) / 2
    assert Head(n_classes=3).around(weighted, centre).curvature == pytest.approx(exact, rel=0.03)
    layers = Layers(module=nn.Sequential(nn.Linear(8, 3)))
    assert layers.around(weighted, layers.parameters()).curvature == pytest.approx(exact, rel=0.03)


def test_path_of_several_layers_lowers_the_loss() -> None:
    objective, _ = problem()
    torch.manual_seed(0)
    layers = Layers(module=nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)))
    start = layers.parameters()
    points = list(penalty_path(layers, objective, start, (1.0, 1e-1, 1e-2, 1e-3), max_iter=10))
    losses = [float(layers.losses(point.minimum.theta, objective.x, objective.y).mean()) for point in points]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * float(layers.losses(start, objective.x, objective.y).mean())


def test_weights_of_the_pairs() -> None:
    objective, centre = problem(n=30)
    weight = torch.tensor([3.0, 1.0, 0.0])
    edited = external(objective, centre, objective.x[:3], objective.y[:3], alpha=0.8, weight=weight)
    assert edited.weight is not None
    torch.testing.assert_close(edited.weight[30:], torch.tensor([0.6, 0.2, 0.0], dtype=torch.float64))
    assert float(edited.weight.sum()) == pytest.approx(1)


def test_removable_leaves_a_sample_of_each_class() -> None:
    y = torch.tensor([0, 1, 0, 1, 1])
    assert removable(y, torch.tensor([0, 1, 2, 3, 4])) == 2
    assert removable(y, torch.tensor([4, 3, 0, 1, 2])) == 3
    assert len(MULTIPLES) >= 8
