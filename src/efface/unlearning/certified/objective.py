"""Penalised logistic and softmax regression, with a linear perturbation or none, and the steps that minimise it.

Over parameters θ `[p, k]`, on rows x_i of length p, with a perturbation B `[p, k]`,

    L(θ) = Σ_i ℓ(θᵀ x_i, t_i) + Λ/2 ‖θ‖² + ⟨B, θ⟩,        B = 0 but for the published procedure,

a sum, not a mean: Λ = λ n. ℓ is the sum of k binary cross-entropies (`logistic`: k = 1, or one against the rest), or
the cross-entropy of a softmax over k classes. Λ > 0 makes L strongly convex: ‖∇L(θ)‖ bounds the distance to the
minimum by ‖∇L‖ / Λ.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from efface import newton
from efface.newton import LinearMap, LinearSolution, Minimum, NewtonCg, StaleFactor, conjugate_gradients

Link = Literal["logistic", "softmax"]

_PRODUCTS = 1000
_ROUNDING = 1e-13
_SQUARINGS = 4
_RTOL = 1e-2
"""How exactly a Newton step of `minimise` is solved for: the next one corrects its errors."""
_PRICE = 32
"""Parameters of a row for which building a factor costs as much as one product with the Hessian."""


@dataclass(frozen=True, kw_only=True)
class PenalisedLoss:
    """L and its derivatives on one set of rows."""

    x: Tensor
    """`[n, p]` float64; one column after the other in memory is fastest."""
    targets: Tensor
    """`[n, k]` of 0 and 1."""
    l2: float
    """Λ > 0."""
    link: Link
    perturbation: Tensor | None = None
    """B `[p, k]`; None for 0."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return `[n, k]` of logits `[n, k]`."""
        return logits.sigmoid() if self.link == "logistic" else logits.softmax(1)

    def value(self, theta: Tensor, logits: Tensor) -> Tensor:
        """Return L(θ), whose logits are given."""
        loss = torch.nn.functional.softplus(logits).sum() if self.link == "logistic" else logits.logsumexp(1).sum()
        loss = loss - (self.targets * logits).sum() + self.l2 / 2 * theta.square().sum()
        return loss if self.perturbation is None else loss + (self.perturbation * theta).sum()

    def gradient(self, theta: Tensor, logits: Tensor) -> Tensor:
        """Return ∇L(θ) `[p, k]`, whose logits are given; 2npk operations."""
        gradient = self.x.mT @ (self.probabilities(logits) - self.targets) + self.l2 * theta
        return gradient if self.perturbation is None else gradient + self.perturbation

    def curve(self, probabilities: Tensor, logits: Tensor) -> Tensor:
        """Apply the second derivative of ℓ, row by row, to a change of the logits `[n, k]`."""
        if self.link == "logistic":
            return probabilities * (1 - probabilities) * logits
        return probabilities * (logits - (probabilities * logits).sum(1, keepdim=True))

    def approximate_inverse(self, probabilities: Tensor) -> Tensor:
        """Return a preconditioner `[p, p]`, the same for every column of θ: the inverse of their mean Hessian block.

        Exact for k = 1. np² + p³ operations, the first in float32, which is precise enough for a preconditioner.
        """
        spread = (probabilities * (1 - probabilities)).mean(1, keepdim=True)
        for dtype in (torch.float32, torch.float64):
            weighted = (self.x * spread.sqrt()).to(dtype)
            hessian = weighted.mT @ weighted
            hessian.diagonal().add_(self.l2)
            L, failed = torch.linalg.cholesky_ex(hessian)
            if not failed:
                return torch.cholesky_inverse(L).to(torch.float64)
        return torch.diag(1 / hessian.diagonal())  # rounding alone can make it indefinite


class LossPoint:
    """A `PenalisedLoss` at one θ.

    Args:
        loss: L.
        theta: θ.
    """

    def __init__(self, loss: PenalisedLoss, theta: Tensor) -> None:
        self.loss, self.theta = loss, theta
        # Anew at each θ, so that the gradient is that of θ and rounding does not add up.
        self.logits = loss.x @ theta

    @cached_property
    def value(self) -> float:
        """L(θ)"""
        return float(self.loss.value(self.theta, self.logits))

    @cached_property
    def probabilities(self) -> Tensor:
        """`[n, k]`"""
        return self.loss.probabilities(self.logits)

    @cached_property
    def gradient(self) -> Tensor:
        """∇L(θ) `[p, k]`"""
        return self.loss.gradient(self.theta, self.logits)

    def product(self) -> LinearMap:
        """Return v ↦ ∇²L(θ) v, `[p, k]`; 4npk operations for each v."""
        loss, probabilities = self.loss, self.probabilities
        return lambda v: loss.x.mT @ loss.curve(probabilities, loss.x @ v) + loss.l2 * v

    def at(self, theta: Tensor) -> "LossPoint":
        """Return the same loss elsewhere."""
        return LossPoint(self.loss, theta)


def kept_factor(p: int, k: int) -> StaleFactor[LossPoint]:
    """Return a preconditioner for θ `[p, k]` that is built when first used and then kept while it serves."""

    def build(point: LossPoint) -> LinearMap:
        inverse = point.loss.approximate_inverse(point.probabilities)
        return lambda r: inverse @ r

    return StaleFactor(build, price=p / (_PRICE * k))


def solve(point: LossPoint, rhs: Tensor, factor: StaleFactor[LossPoint], *, rtol: float) -> LinearSolution:
    """Solve ∇²L(θ) v = g for v `[p, k]` to ‖Hv − g‖ <= rtol ‖g‖ (Frobenius), g = `rhs`."""
    solution = conjugate_gradients(point.product(), rhs, precondition=factor.at(point), tol=rtol, max_iter=_PRODUCTS)
    factor.used(solution)
    return solution


def solve_error(point: LossPoint, rhs: Tensor, step: Tensor) -> float:
    """Measure ‖Hv − g‖ of an approximate solution v = `step`; 4npk operations."""
    return float((point.product()(step) - rhs).norm())


def minimise(
    start: LossPoint, factor: StaleFactor[LossPoint], *, tol: float, max_iter: int = 100
) -> tuple[LossPoint, Minimum, int]:
    """Take Newton steps until ‖∇L‖ <= tol (Frobenius), or no step lowers L any more.

    Args:
        start: where to begin.
        factor: kept from one call to the next.
        tol: the gradient norm at which to stop.
        max_iter: steps at most.

    Returns:
        The last point, where that is, and how many products with the Hessian were taken.
    """
    steps = NewtonCg(factor, rtol=lambda _: _RTOL, max_products=_PRODUCTS)
    point, minimum = newton.minimise(start, [steps], tol=tol, max_iter=max_iter, norm=_frobenius, rounding=_ROUNDING)
    return point, minimum, steps.products


def _frobenius(gradient: Tensor) -> float:
    return float(gradient.norm())


def spectral_bound(x: Tensor) -> float:
    """Return an upper bound of the largest singular value of x `[n, p]`, at most p^(1/64) times it.

    λ_max(G)^32 <= tr(G^32) for the Gram matrix G, whose powers take a few squarings: where a power iteration would
    bound from below, this bounds from above. Rows taken out of x only lower the norm. 2np² + 8p³ operations; where
    n < p, n takes the place of p.
    """
    x = x.mT if x.shape[0] < x.shape[1] else x
    power = x.mT @ x
    log, exponent = 0.0, 1
    for _ in range(_SQUARINGS):
        scale = float(power.diagonal().sum())
        if scale == 0:
            return 0.0
        log += math.log(scale) / exponent
        power = power / scale
        power, exponent = power @ power, 2 * exponent
    # tr(A²) = ‖A‖² (Frobenius) takes the last squaring; rounding is far below the margin.
    log += math.log(float(power.norm())) / exponent
    return math.exp(log / 2) * (1 + 1e-9)
