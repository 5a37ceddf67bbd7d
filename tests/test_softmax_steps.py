import torch
from tests.test_softmax import problem

from efface.softmax import SoftmaxObjective, mean_block
from efface.softmax.steps import NewtonSteps


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
