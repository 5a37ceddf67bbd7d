from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from efface.data.groups import aligned
from efface.problem import Problem
from efface.unlearning.bias import Bias, CounterfactualBias, DemographicParity, EqualOpportunity
from efface.unlearning.head import Head
from efface.unlearning.influence import Influence, influence_on_bias
from efface.unlearning.inverse import head_inverse
from efface.unlearning.objective import TrainingObjective

N = 2000


@pytest.fixture(scope="module")
def adult_sized() -> tuple[TrainingObjective, dict[str, Bias]]:
    """2,000 people, 40 features of which some are rare indicators, a binary label that leans on the attribute."""
    g = torch.Generator().manual_seed(0)
    a = (torch.rand(N, generator=g) < 0.67).long()
    x = torch.randn(N, 40, generator=g)
    x[:, 10:35] = (torch.rand(N, 25, generator=g) < torch.logspace(-2, -0.3, 25)).float()
    x[:, 0] = a.float()
    score = x[:, 1] + x[:, 2] - x[:, 30] + 0.8 * a - 1.5 + torch.randn(N, generator=g)
    y = (score > 0).long()
    x_cf = x.clone()
    x_cf[:, 0] = 1 - x[:, 0]
    biases: dict[str, Bias] = {
        "counterfactual": CounterfactualBias(x[:500], x_cf[:500], y[:500]),
        "demographic parity": DemographicParity(x[:500], a[:500]),
        "equal opportunity": EqualOpportunity(x[:500], y[:500], a[:500]),
    }
    return TrainingObjective(x=x, y=y, l2=1e-3), biases


@pytest.fixture
def aligned_rows() -> Callable[[Problem], Tensor]:
    def rows(problem: Problem) -> Tensor:
        table = aligned(problem.train.y, problem.train.a, problem.n_classes, problem.n_attributes)
        return table[problem.train.y, problem.train.a]

    return rows


HEAD = Head(n_classes=2, tol=1e-11)


def left_out(objective: TrainingObjective, theta: Tensor, rows: Tensor) -> Tensor:
    """The exact minimum without these samples; n stays the divisor, as Σ_{i∉S} ℓ_i / n + λ/2 ‖θ‖²."""
    weight = torch.ones(N, dtype=torch.float64)
    weight[rows] = 0
    smaller = TrainingObjective(x=objective.x, y=objective.y, weight=weight, l2=objective.l2 * N / float(weight.sum()))
    return HEAD.minimise(smaller, theta, max_iter=50).theta


def correlation(one: list[float], other: list[float]) -> float:
    return float(torch.corrcoef(torch.tensor([one, other], dtype=torch.float64))[0, 1])


@pytest.mark.parametrize("name", ["counterfactual", "demographic parity", "equal opportunity"])
@pytest.mark.parametrize(
    ("size", "count", "least"), [(1, 50, 0.99), (50, 40, 0.98)], ids=["one at a time", "groups of 50"]
)
def test_predicted_is_actual(
    adult_sized: tuple[TrainingObjective, dict[str, Bias]], name: str, size: int, count: int, least: float
) -> None:
    objective, biases = adult_sized
    theta = HEAD.minimise(objective, torch.zeros(2, 41, dtype=torch.float64), max_iter=50).theta
    influence = HEAD.influence(objective, theta, biases[name], HEAD.inverse(objective, theta, "auto", 0))
    g = torch.Generator().manual_seed(1)
    groups = [torch.randperm(N, generator=g)[:size] for _ in range(count)]
    predicted = [influence.predicted_change(rows) for rows in groups]
    actual = [biases[name].value(left_out(objective, theta, rows)) - influence.bias for rows in groups]
    assert correlation(predicted, actual) > least
    # Not only in proportion: the slope is 1.
    slope = sum(p * q for p, q in zip(predicted, actual, strict=True)) / sum(p * p for p in predicted)
    assert slope == pytest.approx(1, abs=0.1)


def test_solvers_agree(adult_sized: tuple[TrainingObjective, dict[str, Bias]]) -> None:
    objective, biases = adult_sized
    damped = TrainingObjective(x=objective.x, y=objective.y, l2=0.3)
    theta = HEAD.minimise(damped, torch.zeros(2, 41, dtype=torch.float64), max_iter=50).theta
    f = HEAD.objective(damped)
    p = f.logits(theta).softmax(1)
    exact, cg = (
        influence_on_bias(f, theta, biases["counterfactual"], head_inverse(f, p, solver=solver)).values
        for solver in ("cholesky", "cg")
    )
    torch.testing.assert_close(cg, exact, rtol=1e-5, atol=1e-8)
    f.penalty.zero_()
    lissa = head_inverse(f, p, damping=0.3, solver="lissa")
    values = influence_on_bias(f, theta, biases["counterfactual"], lissa).values
    assert correlation(values.tolist(), exact.tolist()) > 0.999


def test_ranking_and_limit() -> None:
    weight = torch.full((5,), 0.2, dtype=torch.float64)
    values = torch.tensor([1.0, -3.0, 2.0, 0.5, -1.0], dtype=torch.float64)
    influence = Influence(bias=0.55, values=values, weight=weight)
    assert influence.ranking().tolist() == [2, 0, 3, 4, 1]
    assert influence.predicted_change(torch.tensor([2])) == pytest.approx(-0.4)
    assert influence.removal_limit() == 2
    assert Influence(bias=9.0, values=values, weight=weight).removal_limit() == 3
    summary = influence.summary(torch.tensor([True, False, True, False, False]), top=2, bins=4)
    assert summary["aligned_share_of_harmful"] == 1
    assert summary["aligned_share_of_helpful"] == 0
    counts = summary["histogram"]
    assert sum(counts["aligned"]) == 2
    assert sum(counts["conflicting"]) == 3


def test_harmful_samples_are_bias_aligned(ten_classes: Problem, aligned_rows: Callable[[Problem], Tensor]) -> None:
    head = Head(n_classes=10)
    objective = TrainingObjective(x=ten_classes.train.x, y=ten_classes.train.y, l2=1e-3)
    theta = head.minimise(objective, torch.zeros(10, 101, dtype=torch.float64), max_iter=50).theta
    pairs = CounterfactualBias(ten_classes.pairs.x, ten_classes.pairs_cf.x, ten_classes.pairs.y)
    influence = head.influence(objective, theta, pairs, head.inverse(objective, theta, "auto", 0))
    is_aligned = aligned_rows(ten_classes)
    summary = influence.summary(is_aligned, top=100)
    assert summary["aligned_share_of_harmful"] > 0.9
    assert summary["aligned_share_of_helpful"] < 0.5
    assert float(influence.values[~is_aligned].mean()) < 0 < float(influence.values[is_aligned].mean())


def test_parameters_that_are_no_minimum_are_refused(adult_sized: tuple[TrainingObjective, dict[str, Bias]]) -> None:
    """Covers faults A8: at θ that is not finite there is no influence."""
    training, biases = adult_sized
    f, theta = HEAD.objective(training), torch.zeros(2, 41, dtype=torch.float64)
    inverse = head_inverse(f, f.logits(theta).softmax(1))
    for wrong in (theta * torch.nan, theta[:, :5], torch.cat([theta, theta])):
        with pytest.raises(ValueError, match=r"theta has shape .*, but must be finite and \[2, 41\]"):
            influence_on_bias(f, wrong, biases["demographic parity"], inverse)
