"""Newton's method for smooth functions that know their gradient and products with their Hessian.

A function is known through its `Point`s: value, gradient and Hessian at one θ. `minimise` takes steps solution by
`NewtonCg`, conjugate gradients under a preconditioner that a `StaleFactor` keeps from step to step, and shortens them
until the value falls (Boyd & Vandenberghe, Convex Optimization, algorithm 9.5). No matrix of θ's size is formed.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from torch import Tensor

LinearMap = Callable[[Tensor], Tensor]
"""Maps a tensor of θ's shape to another one, linearly."""

_ARMIJO = 1e-4
"""Share of the decrease that the slope promises which a step has to bring."""
_SHORTEST = 2.0**-34


class Point(Protocol):
    """A function at one θ. Value and gradient should be computed once, and the gradient only if asked for."""

    @property
    def theta(self) -> Tensor:
        """θ"""
        ...

    @property
    def value(self) -> float:
        """f(θ)"""
        ...

    @property
    def gradient(self) -> Tensor:
        """∇f(θ), of θ's shape."""
        ...

    def product(self) -> LinearMap:
        """Return v ↦ H v for the Hessian H at θ, or a positive semi-definite matrix in its place."""
        ...

    def at(self, theta: Tensor) -> Self:
        """Return the same function at another θ."""
        ...


P = TypeVar("P", bound=Point)
Q = TypeVar("Q", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Where a minimisation stopped."""

    theta: Tensor
    iterations: int
    grad_norm: float
    """Norm of the gradient there: its largest absolute entry, unless another norm was asked for."""
    converged: bool


@dataclass(frozen=True)
class LinearSolution:
    """Where conjugate gradients stopped."""

    solution: Tensor
    residual: float
    """‖b − A x‖ / ‖b‖, as updated."""
    iterations: int
    curvature: float
    """The smallest of uᵀAu / uᵀu over the directions u taken; A is not positive definite if it is not positive."""


def conjugate_gradients(
    product: LinearMap, b: Tensor, *, precondition: LinearMap, tol: float, max_iter: int
) -> LinearSolution:
    """Solve A x = b for symmetric positive definite A, given by its products, to ‖b − A x‖ <= tol ‖b‖.

    Stops early, with what it has, in a direction of no positive curvature: rounding, where A is singular.
    """
    norm = float(b.norm())
    x, residual = b.new_zeros(b.shape), b.clone()
    z = precondition(residual)
    direction, rz = z, (residual * z).sum()
    smallest, iterations = math.inf, 0
    while iterations < max_iter and float(residual.norm()) > tol * norm:
        curved = product(direction)
        curvature = (direction * curved).sum()
        smallest = min(smallest, float(curvature / direction.square().sum()))
        if curvature <= 0:
            break
        alpha = rz / curvature
        x = x + alpha * direction
        residual = residual - alpha * curved
        z = precondition(residual)
        rz, previous = (residual * z).sum(), rz
        direction = z + rz / previous * direction
        iterations += 1
    return LinearSolution(x, float(residual.norm()) / norm if norm > 0 else 0.0, iterations, smallest)


def largest_eigenvalue(product: LinearMap, start: Tensor, *, iterations: int = 20) -> float:
    """Return the largest eigenvalue of a positive semi-definite matrix, from below and to a few per cent.

    By power iteration.

    Args:
        product: v ↦ A v.
        start: where to begin, not orthogonal to the eigenvector.
        iterations: products.
    """
    v, eigenvalue = start / start.norm(), 0.0
    for _ in range(iterations):
        v = product(v)
        eigenvalue = float(v.norm())
        if eigenvalue == 0:
            break
        v = v / eigenvalue
    return eigenvalue


class StaleFactor(Generic[P]):
    """A preconditioner that is kept from solve to solve while it serves, and built anew when it has become stale.

    Stale: the products that it has cost beyond those of a fresh one would have paid for a new one. A fresh one needs as
    many for each digit as the first solve with it, and one more. The whole costs at most twice what it would if the
    best moments to build anew were known beforehand.

    Args:
        build: makes a preconditioner r ↦ M⁻¹ r, symmetric and positive definite, at a point.
        price: what building one costs, in products with the Hessian.
    """

    def __init__(self, build: Callable[[P], LinearMap], *, price: float) -> None:
        self._build, self._price = build, price
        self._factor: LinearMap | None = None
        self._rate: float | None = None
        self._excess = 0.0
        self.built = 0
        """How many have been built."""

    def at(self, point: P) -> LinearMap:
        """Return the preconditioner to use at a point."""
        if self._factor is None or self._excess >= self._price:
            self._factor = self._build(point)
            self._rate, self._excess = None, 0.0
            self.built += 1
        return self._factor

    def used(self, solution: LinearSolution) -> None:
        """Count what a solve took."""
        digits = max(-math.log10(max(solution.residual, 1e-16)), 0.5)
        if self._rate is None:
            self._rate = solution.iterations / digits
        self._excess += max(solution.iterations - self._rate * digits - 1, 0)


class StepFinder(Protocol[Q]):
    """Finds a step from which θ is lowered: θ − t · step."""

    def step(self, point: Q) -> Tensor:
        """Return a direction of ascent, of θ's shape."""
        ...

    def taken(self, t: float) -> None:
        """Learn which t of 1, ½, ¼, … the last step was taken with; 0 if it lowered the value at none."""
        ...


class NewtonCg(Generic[P]):
    """H⁻¹ ∇f by preconditioned conjugate gradients.

    Args:
        factor: preconditions; none if None. It may serve several minimisations.
        rtol: ‖H step − ∇f‖ / ‖∇f‖ to reach, as a function of the gradient.
        max_products: products for one step at most.
        caution: where > 0, a step that had to be shortened makes the next one more cautious: a multiple of the identity
            is added to H, at least this, and taken back as steps are taken whole (Levenberg, Marquardt).
    """

    def __init__(
        self, factor: StaleFactor[P] | None, *, rtol: Callable[[Tensor], float], max_products: int, caution: float = 0.0
    ) -> None:
        self.factor, self._rtol, self._max = factor, rtol, max_products
        self._least, self._caution = caution, 0.0
        self.products = 0
        """Products with the Hessian that have been taken."""

    def product(self, point: P) -> LinearMap:
        """Return the product to use at a point; a subclass may take a cheaper one."""
        return point.product()

    def step(self, point: P) -> Tensor:
        """Solve for the step."""
        product, caution = self.product(point), self._caution
        solution = conjugate_gradients(
            product if caution == 0 else lambda v: product(v) + caution * v,
            point.gradient,
            precondition=_same if self.factor is None else self.factor.at(point),
            tol=self._rtol(point.gradient),
            max_iter=self._max,
        )
        self.products += solution.iterations
        if self.factor is not None:
            self.factor.used(solution)
        return solution.solution

    def taken(self, t: float) -> None:
        """Be more cautious after a step that was shortened, and less after a whole one."""
        self._caution = self._caution / 4 if t == 1 else max(4 * self._caution, self._least)


def largest_entry(gradient: Tensor) -> float:
    """Return the largest absolute entry."""
    return float(gradient.abs().max())


def minimise(
    start: P,
    finders: Sequence[StepFinder[P]],
    *,
    tol: float,
    max_iter: int,
    norm: Callable[[Tensor], float] = largest_entry,
    rounding: float = 0.0,
) -> tuple[P, Minimum]:
    """Take steps, shortened until the value falls, until the gradient's norm is at most `tol` or no step lowers it.

    Args:
        start: where to begin.
        finders: tried in order at each point, the next one where the last one's step lowers the value at no length.
        tol: the gradient norm at which to stop.
        max_iter: steps at most.
        norm: of the gradient.
        rounding: how far, relative to the value, rounding may raise it in a step that counts as lowering it.

    Returns:
        The last point, and where that is. One evaluation of value and gradient for each step, beside those of the
        finders.
    """
    point, iterations = start, 0
    while True:
        grad_norm = norm(point.gradient)
        if iterations == max_iter or grad_norm <= tol:
            break
        lower = _first(_descend(point, finder, rounding) for finder in finders)
        if lower is None:  # no decrease is left that the precision can see
            break
        point, iterations = lower, iterations + 1
    minimum = Minimum(theta=point.theta, iterations=iterations, grad_norm=grad_norm, converged=grad_norm <= tol)
    return point, minimum


def _descend(point: P, finder: StepFinder[P], rounding: float) -> P | None:
    """Return the point after the first t of 1, ½, ¼, … that lowers the value enough (Armijo); None if none does."""
    step = finder.step(point)
    slope = float((point.gradient * step).sum())
    t = 1.0 if slope > 0 else 0.0
    while t >= _SHORTEST:
        lower = point.at(point.theta - t * step)
        if lower.value <= point.value - _ARMIJO * t * slope + rounding * abs(point.value):
            finder.taken(t)
            return lower
        t /= 2
    finder.taken(0.0)
    return None


def _first(points: Iterable[P | None]) -> P | None:
    """Return the first that is not None."""
    return next((point for point in points if point is not None), None)


def _same(r: Tensor) -> Tensor:
    return r
