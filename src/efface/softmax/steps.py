"""Newton steps for linear objectives, and what preconditions them."""

import math

import torch
from torch import Tensor

from efface.newton import LinearMap, NewtonCg, StaleFactor
from efface.softmax.objective import LinearObjective, LinearPoint, SoftmaxObjective

FACTORED = 5000
"""Parameters K(d + 1) up to which a matrix of their square is ever made."""

_LEAST = 2000
"""Samples that stand for all, at least."""
_PRODUCTS = 250
_MANY = 10
"""Products of one step beyond which the factor of an estimated Hessian is worth what it costs."""


def mean_block(objective: LinearObjective, probabilities: Tensor, damping: float = 0.0) -> LinearMap:
    """Return a preconditioner: the inverse of the mean of the Hessian's diagonal blocks plus `damping`.

    One d × d matrix serves all rows of θ; for two classes in reduced form it is the Hessian. In float32, from about
    3 d samples, drawn by how much they curve f: 6 d³ operations, against n(Kd)² for the Hessian itself.
    """
    f = objective
    spread = f.spread(probabilities)
    rows, times = sampled(spread * f.length_sq, max(3 * f.shape[1], _LEAST))
    x = f.x32.mT[:, rows].mT
    block = ((x * (spread[rows] * times).to(x)[:, None]).mT @ x).to(f.x)
    block.diagonal().add_(f.penalty + damping + 1e-7 * block.diagonal().mean() + 1e-300)
    L, failed = torch.linalg.cholesky_ex(block)
    if failed:
        L = block.diagonal().sqrt().diag()
    # Multiplied with for every product: one pass over it, where two triangular solves wait for each other's entries.
    inverse = torch.cholesky_inverse(L)
    return lambda r: r @ inverse


def curved_factor(objective: SoftmaxObjective, probabilities: Tensor, damping: float = 0.0) -> LinearMap | None:
    """Return a preconditioner: the inverse of an estimated Hessian plus `damping`; None if that is not definite.

    In float32, from samples drawn by how much they curve f: as many as cost about 25 products, or twice as many as
    there are parameters if that is more. Holds (Kd)² numbers.
    """
    f = objective
    k, d = f.shape
    number = max(2 * k * d, 100 * len(f.x) // (k * d))
    rows, times = sampled(f.spread(probabilities) * f.length_sq, number)
    estimate = f.hessian(probabilities, rows, times, dtype=torch.float32).to(f.x)
    estimate.diagonal().add_(damping + 1e-7 * estimate.diagonal().mean())
    L, failed = torch.linalg.cholesky_ex(estimate)
    if failed:
        return None
    inverse = torch.cholesky_inverse(L)
    return lambda r: (inverse @ r.reshape(-1)).view_as(r)


def sampled(importance: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Sample about `number` rows, each with probability in proportion to its importance `[n]`, but at most 1.

    Systematically, and without chance: the same rows each time.

    Returns:
        The rows, and how many each stands for, 1 / its probability. Sums over all rows are estimated without bias, and
        of a matrix that the most important rows make up, closely.
    """
    n = len(importance)
    if n <= number:
        return torch.arange(n, device=importance.device), torch.ones_like(importance)
    ordered = importance.sort(descending=True).values
    remaining = ordered.flip(0).cumsum(0).flip(0)
    expected = number - torch.arange(n, device=importance.device)
    certain = int((expected * ordered > remaining).sum())  # rows whose probability would exceed 1
    probability = ((number - certain) * importance / remaining[certain]).clamp(max=1)
    last = (probability.cumsum(0) + 0.5).floor()
    rows = last.diff(prepend=last.new_zeros(1)).nonzero()[:, 0]
    return rows, 1 / probability[rows]


class NewtonSteps(NewtonCg[LinearPoint]):
    """Newton steps for a linear objective.

    A step needs a few digits only: its products are in float32, which takes half the time, unless the last step has not
    halved the gradient. Preconditioned by the mean block until a step takes many products; then, of few enough
    parameters, by a factor of an estimate of the whole Hessian: features of a trained network, small penalty.
    """

    def __init__(self, tol: float) -> None:
        super().__init__(
            StaleFactor(self._block, price=20), rtol=lambda gradient: _forcing(gradient, tol), max_products=_PRODUCTS
        )
        self._last = math.inf
        self._curved = False

    def restart(self) -> None:
        """Forget how the last fit went, before another one begins; the preconditioner is kept."""
        self._last = math.inf

    def product(self, point: LinearPoint) -> LinearMap:
        norm = float(point.gradient.norm())
        slow, self._last = norm > self._last / 2, norm
        return point.product(torch.float64 if slow else torch.float32)

    def step(self, point: LinearPoint) -> Tensor:
        before = self.products
        step = super().step(point)
        f = point.objective
        if len(f.centre) > 1:
            # f is constant along one vector added to all rows, unless that is penalised: what there is, is rounding.
            step = step - torch.where(f.penalty == 0, step.mean(0), 0)
        if not self._curved and self.products - before > _MANY and len(f.centre) > 1 and f.centre.numel() <= FACTORED:
            self._curved, self.factor = True, StaleFactor(self._factor, price=25)
        return step

    def _block(self, point: LinearPoint) -> LinearMap:
        return mean_block(point.objective, point.probabilities)

    def _factor(self, point: LinearPoint) -> LinearMap:
        assert isinstance(point.objective, SoftmaxObjective)
        return curved_factor(point.objective, point.probabilities) or self._block(point)


class GradientStep:
    """The gradient over a bound of the Hessian's largest eigenvalue, ½ Σ w ‖x‖² + λ: it always lowers f.

    Far from the minimum a saturated softmax has no curvature that float64 can see, and a Newton step may overshoot
    beyond what backtracking mends; a gradient step of a safe length never does.
    """

    def step(self, point: LinearPoint) -> Tensor:
        f = point.objective
        return point.gradient / (f.weight @ f.length_sq / 2 + f.penalty.max())

    def taken(self, t: float) -> None:
        pass


def _forcing(gradient: Tensor, tol: float) -> float:
    """Say how exactly a step is solved for: the more so the nearer the minimum, but not beyond what `tol` asks for."""
    norm = float(gradient.norm())
    return max(min(0.1, math.sqrt(norm)), 0.03 * tol / norm) if norm > 0 else 0.1
