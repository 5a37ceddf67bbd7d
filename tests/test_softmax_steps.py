import pytest
import torch
from tests.test_softmax import problem

from efface.softmax import SoftmaxObjective, mean_block
from efface.softmax.steps import NewtonSteps, curved_factor, sampled


def test_products_are_in_float32_while_the_gradient_halves() -> None:
    f = SoftmaxObjective(*problem(), l2=1e-2)
    steps, dtypes = NewtonSteps(1e-8), []

    def look(scale: float) -> None:
        point = f.at(torch.zeros(f.shape, dtype=torch.float64))
        point.gradient = scale * torch.ones(f.shape, dtype=torch.float64)  # type: ignore[misc]
        point.product = lambda dtype=torch.float64: dtypes.append(dtype)  # type: ignore[assignment, method-assign]
        steps.product(point)

    for scale in (1.0, 0.4, 0.3, 0.1):
        look(scale)
    assert dtypes == [torch.float32, torch.float32, torch.float64, torch.float32]


def test_mean_block_of_some_samples_is_that_of_all() -> None:
    x, y = problem(n=20_000, d=6, k=4)
    f = SoftmaxObjective(x, y, l2=1e-2)
    p = f.probabilities(f.logits(torch.zeros(f.shape, dtype=torch.float64)))
    hessian = f.hessian(p).view(4, 7, 4, 7)
    block = torch.stack([hessian[i, :, i] for i in range(4)]).mean(0)
    r = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.solve(block, r.mT).mT
    assert float((mean_block(f, p)(r) - exact).norm() / exact.norm()) < 0.2


def test_steps_keep_the_sum_of_the_rows_where_it_is_free() -> None:
    f = SoftmaxObjective(*problem(n=200, d=6, k=4), l2=1e-2)
    point = f.at(torch.randn(f.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    step = NewtonSteps(1e-8).step(point)
    assert float(step[:, -1].sum().abs()) < 1e-14
    assert float(step[:, 0].sum().abs()) > 1e-6


def test_sampled_rows_stand_for_all() -> None:
    g = torch.Generator().manual_seed(0)
    importance = torch.rand(5000, generator=g, dtype=torch.float64).pow(8)
    importance[7] = 100.0
    rows, times = sampled(importance, 1500)
    assert abs(len(rows) - 1500) <= 1
    assert float((importance[rows] * times).sum()) == pytest.approx(float(importance.sum()), rel=1e-3)
    assert float(times[rows == 7]) == 1.0, "what exceeds its share is there for certain, and counts once"
    assert float(times.min()) == 1.0
    values = torch.rand(5000, generator=g, dtype=torch.float64) * importance
    assert float((values[rows] * times).sum()) == pytest.approx(float(values.sum()), rel=0.02)


def test_few_rows_are_all_taken_once() -> None:
    rows, times = sampled(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), 3)
    assert rows.tolist() == [0, 1, 2]
    assert times.tolist() == [1.0, 1.0, 1.0]


def test_factor_of_sampled_rows_is_nearly_the_inverse_hessian() -> None:
    x, y = problem(n=20_000, d=6, k=4)
    f = SoftmaxObjective(x, y, l2=1e-2, penalise_bias=True)
    p = f.probabilities(f.logits(torch.randn(f.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))))
    factor = curved_factor(f, p)
    assert factor is not None
    r = torch.randn(f.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = torch.linalg.solve(f.hessian(p), r.flatten()).view_as(r)
    assert len(sampled(f.spread(p) * f.length_sq, 100)[0]) < len(x) / 2
    assert float((factor(r) - exact).norm() / exact.norm()) < 0.2
