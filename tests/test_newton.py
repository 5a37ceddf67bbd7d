import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from efface.newton import LinearMap, LinearSolution, NewtonCg, StaleFactor, conjugate_gradients, minimise


@dataclass(frozen=True)
class Elementwise:
    """Σ f(θ_i) of a scalar function, with its derivatives; `curvature` stands in for the second one if given."""

    theta: Tensor
    f: Callable[[Tensor], Tensor]
    curvature: float | None = None

    @property
    def value(self) -> float:
        return float(self.f(self.theta).sum())

    @property
    def gradient(self) -> Tensor:
        return torch.autograd.functional.jacobian(lambda t: self.f(t).sum(), self.theta)

    def product(self) -> LinearMap:
        if self.curvature is not None:
            return lambda v: self.curvature * v
        return lambda v: torch.autograd.functional.hvp(lambda t: self.f(t).sum(), self.theta, v)[1]

    def at(self, theta: Tensor) -> "Elementwise":
        return Elementwise(theta, self.f, self.curvature)


def newton(rtol: float = 1e-10, factor: StaleFactor[Elementwise] | None = None, **options: float) -> NewtonCg:
    return NewtonCg(factor, rtol=lambda _: rtol, max_products=100, **options)


def definite(n: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, generator=g, dtype=torch.float64)
    return A @ A.mT + 0.1 * torch.eye(n, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64)


def test_conjugate_gradients_solve_to_the_tolerance() -> None:
    A, b = definite()
    for tol in (1e-2, 1e-10):
        found = conjugate_gradients(lambda v: A @ v, b, precondition=lambda r: r, tol=tol, max_iter=500)
        assert float((A @ found.solution - b).norm() / b.norm()) == pytest.approx(found.residual, rel=1e-3, abs=1e-12)
        assert found.residual <= tol
    least = float(torch.linalg.eigvalsh(A)[0])
    assert least <= found.curvature <= float(torch.linalg.eigvalsh(A)[-1])
    exact = torch.linalg.inv(A)
    one = conjugate_gradients(lambda v: A @ v, b, precondition=lambda r: exact @ r, tol=1e-8, max_iter=500)
    assert one.iterations == 1
    stopped = conjugate_gradients(lambda v: A @ v, b, precondition=lambda r: r, tol=1e-12, max_iter=3)
    assert stopped.iterations == 3
    assert stopped.residual > 1e-12


def test_conjugate_gradients_report_a_direction_of_negative_curvature() -> None:
    A = torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64))
    b = torch.ones(2, dtype=torch.float64)
    assert conjugate_gradients(lambda v: A @ v, b, precondition=lambda r: r, tol=1e-8, max_iter=9).curvature < 0


def test_conjugate_gradients_of_nothing_are_nothing() -> None:
    found = conjugate_gradients(lambda v: v, torch.zeros(3), precondition=lambda r: r, tol=1e-8, max_iter=9)
    assert (found.iterations, found.residual) == (0, 0.0)
    assert found.solution.tolist() == [0, 0, 0]


def test_minimum_of_a_quadratic_is_one_step_away() -> None:
    start = Elementwise(torch.tensor([3.0, -2.0], dtype=torch.float64), lambda t: 2 * (t - 1).square())
    point, minimum = minimise(start, [newton()], tol=1e-9, max_iter=10)
    assert minimum.iterations == 1
    assert minimum.converged
    assert point.theta is minimum.theta
    torch.testing.assert_close(minimum.theta, torch.ones(2, dtype=torch.float64))


def test_steps_that_overshoot_are_halved_until_the_value_falls() -> None:
    """Whole Newton steps for sqrt(1 + t²) diverge from |t| > 1."""
    start = Elementwise(torch.tensor([5.0], dtype=torch.float64), lambda t: (1 + t.square()).sqrt())
    values = [start.value]
    for steps in range(1, 8):
        point, minimum = minimise(start, [newton()], tol=1e-9, max_iter=steps)
        values.append(point.value)
    assert values == sorted(values, reverse=True)
    assert values[1] < values[0]
    assert minimise(start, [newton()], tol=1e-9, max_iter=50)[1].converged
    assert minimum.grad_norm == pytest.approx(float(point.gradient.abs().max()))


def test_iterations_lie_between_the_limits() -> None:
    start = Elementwise(torch.tensor([0.0, 2.0], dtype=torch.float64), lambda t: t.square() + t.square().square())
    assert minimise(start, [newton()], tol=1e9, max_iter=5)[1].iterations == 0
    stopped = minimise(start, [newton()], tol=1e-9, max_iter=1)[1]
    assert (stopped.iterations, stopped.converged) == (1, False)


def test_norm_decides_when_to_stop() -> None:
    start = Elementwise(torch.full((100,), 0.05, dtype=torch.float64), lambda t: t.square() / 2)
    largest = minimise(start, [newton()], tol=0.1, max_iter=5)[1]
    assert (largest.iterations, largest.grad_norm) == (0, pytest.approx(0.05))
    frobenius = minimise(start, [newton()], tol=0.1, max_iter=5, norm=lambda g: float(g.norm()))[1]
    assert frobenius.iterations == 1


def test_next_finder_serves_where_the_first_finds_no_descent() -> None:
    class Uphill:
        def __init__(self) -> None:
            self.lengths: list[float] = []

        def step(self, point: Elementwise) -> Tensor:
            return -point.gradient

        def taken(self, t: float) -> None:
            self.lengths.append(t)

    start = Elementwise(torch.tensor([3.0], dtype=torch.float64), lambda t: t.square())
    uphill = Uphill()
    assert minimise(start, [uphill, newton()], tol=1e-9, max_iter=5)[1].converged
    assert uphill.lengths == [0.0]
    stuck = minimise(start, [Uphill()], tol=1e-9, max_iter=5)[1]
    assert (stuck.iterations, stuck.converged) == (0, False)


def test_caution_grows_where_steps_are_shortened_and_goes_where_they_are_not() -> None:
    """A curvature that is far too small makes steps that are far too long."""
    start = Elementwise(torch.tensor([1.0], dtype=torch.float64), lambda t: t.square() / 2, curvature=0.01)
    bold, cautious = newton(), newton(caution=0.1)
    cautious.taken(0.25)
    step = float(cautious.step(start))
    assert step == pytest.approx(1 / 0.11)
    cautious.taken(0.25)
    assert float(cautious.step(start)) == pytest.approx(1 / 0.41)
    cautious.taken(1.0)
    assert float(cautious.step(start)) == pytest.approx(1 / 0.11)
    bold.taken(0.25)
    assert float(bold.step(start)) == pytest.approx(100)
    assert minimise(start, [newton(caution=0.1)], tol=1e-6, max_iter=100)[1].converged


def test_stale_factor_is_built_anew_when_its_excess_has_paid_for_a_new_one() -> None:
    factor: StaleFactor[Elementwise] = StaleFactor(lambda point: lambda r: r, price=10)
    point = Elementwise(torch.zeros(1), torch.square)

    def solve(iterations: int, digits: float) -> None:
        factor.at(point)
        factor.used(LinearSolution(torch.zeros(1), 10**-digits, iterations, math.inf))

    solve(4, 2)  # a fresh one takes two products a digit
    for _ in range(20):
        solve(5, 2)  # one more is no excess
    solve(12, 6)  # nor are more products for more digits
    assert factor.built == 1
    solve(10, 2)  # five beyond
    solve(10, 2)
    assert factor.built == 1
    solve(4, 2)  # ten beyond: made anew before this one
    assert factor.built == 2
    solve(5, 2)
    assert factor.built == 2


def test_step_of_no_slope_is_no_step() -> None:
    class Nowhere:
        def step(self, point: Elementwise) -> Tensor:
            return torch.zeros_like(point.theta)

        def taken(self, t: float) -> None:
            assert t == 0

    start = Elementwise(torch.tensor([3.0], dtype=torch.float64), lambda t: t.square())
    assert minimise(start, [Nowhere()], tol=1e-9, max_iter=5, rounding=1e-14)[1].iterations == 0


def test_step_that_lowers_too_little_is_halved() -> None:
    """With half the curvature a whole step ends at the mirror image, where the value is the same."""
    start = Elementwise(torch.tensor([1.0], dtype=torch.float64), lambda t: t.square() / 2, curvature=0.5)
    point, minimum = minimise(start, [newton()], tol=1e-9, max_iter=5)
    assert minimum.iterations == 1
    assert point.theta.tolist() == [0.0]
