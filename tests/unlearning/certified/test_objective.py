from typing import Any

import pytest
import torch
from torch import Tensor

from efface.unlearning.certified.objective import (
    Link,
    LossPoint,
    PenalisedLoss,
    kept_factor,
    minimise,
    solve,
    solve_error,
    spectral_bound,
)


def loss_of(link: Link, n: int = 200, p: int = 6, k: int = 3, **changed: Any) -> PenalisedLoss:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, p, generator=g, dtype=torch.float64) / p**0.5
    y = (x @ torch.randn(p, k, generator=g, dtype=torch.float64)).argmax(1)
    options: dict[str, Any] = {
        "x": x,
        "targets": torch.nn.functional.one_hot(y, k).double(),
        "l2": 0.5,
        "link": link,
        "perturbation": torch.randn(p, k, generator=g, dtype=torch.float64),
    }
    return PenalisedLoss(**{**options, **changed})


def hessian(loss: PenalisedLoss, theta: Tensor) -> Tensor:
    value = lambda t: loss.value(t, loss.x @ t)  # noqa: E731
    return torch.autograd.functional.hessian(value, theta).reshape(theta.numel(), -1)


@pytest.mark.parametrize("link", ["logistic", "softmax"])
def test_derivatives_are_autograd_s(link: Link) -> None:
    loss = loss_of(link)
    theta, direction = torch.randn(2, 6, 3, dtype=torch.float64)
    value = lambda t: loss.value(t, loss.x @ t)  # noqa: E731
    point = LossPoint(loss, theta)
    torch.testing.assert_close(point.gradient, torch.autograd.functional.jacobian(value, theta))
    torch.testing.assert_close(point.product()(direction).flatten(), hessian(loss, theta) @ direction.flatten())


@pytest.mark.parametrize("link", ["logistic", "softmax"])
def test_solve_reaches_the_tolerance_and_its_error_is_measured(link: Link) -> None:
    loss = loss_of(link)
    theta, rhs = torch.randn(2, 6, 3, dtype=torch.float64)
    point, H = LossPoint(loss, theta), hessian(loss, theta)
    for rtol in (1e-2, 1e-10):
        step = solve(point, rhs, kept_factor(6, 3), rtol=rtol).solution
        error = float((H @ step.flatten() - rhs.flatten()).norm())
        assert error <= 1.01 * rtol * float(rhs.norm())
        assert solve_error(point, rhs, step) == pytest.approx(error, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("link", ["logistic", "softmax"])
def test_minimum_is_no_farther_than_its_gradient_says(link: Link) -> None:
    loss = loss_of(link)
    start = LossPoint(loss, torch.zeros(6, 3, dtype=torch.float64))
    _, exact, products = minimise(start, kept_factor(6, 3), tol=1e-11)
    assert exact.converged
    assert exact.grad_norm <= 1e-11
    assert products >= exact.iterations
    for steps in (1, 2, 3):
        rough = minimise(start, kept_factor(6, 3), tol=1e-11, max_iter=steps)[1]
        assert not rough.converged
        assert float((rough.theta - exact.theta).norm()) <= rough.grad_norm / loss.l2


def test_factor_is_kept_while_it_serves_and_built_anew_when_it_is_stale() -> None:
    loss = loss_of("logistic", n=2000, p=100, k=1, targets=torch.ones(2000, 1, dtype=torch.float64), l2=1e-3)
    factor = kept_factor(100, 1)
    point, rhs = LossPoint(loss, torch.zeros(100, 1, dtype=torch.float64)), torch.ones(100, 1, dtype=torch.float64)
    for _ in range(50):
        solve(point, rhs, factor, rtol=1e-6)
    assert factor.built == 1
    iterations = []
    for _ in range(10):
        point = LossPoint(loss, 30 * torch.randn(100, 1, dtype=torch.float64))
        iterations += [solve(point, rhs, factor, rtol=1e-6).iterations for _ in range(3)]
    assert 5 <= factor.built <= 20
    assert iterations[-1] < max(iterations) / 2


@pytest.mark.parametrize("shape", [(300, 20), (20, 300), (40, 40)])
@pytest.mark.parametrize("rank", [1, 3, 20])
def test_spectral_bound_is_from_above_and_close(shape: tuple[int, int], rank: int) -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(shape[0], rank, generator=g, dtype=torch.float64) @ torch.randn(
        rank, shape[1], generator=g, dtype=torch.float64
    )
    norm = float(torch.linalg.matrix_norm(x, 2))
    assert norm <= spectral_bound(x) <= min(shape) ** (1 / 64) * norm * (1 + 1e-8)


def test_spectral_bound_where_nothing_stands_out() -> None:
    x = torch.eye(50, dtype=torch.float64) * 3
    assert 3 <= spectral_bound(x) <= 3 * 50 ** (1 / 64) + 1e-8
    assert spectral_bound(torch.zeros(5, 3, dtype=torch.float64)) == 0
