"""Regularised logistic and softmax regression with a linear perturbation, and the Newton steps that minimise it.

Over parameters θ `[p, k]`, on rows x_i of length p, with a perturbation B `[p, k]`,

    L(θ) = Σ_i ℓ(θᵀ x_i, t_i) + Λ/2 ‖θ‖² + ⟨B, θ⟩,

a sum, not a mean: Λ = λ n. ℓ is the sum of k binary cross-entropies (`logistic`: k = 1, or one against the rest), or
the cross-entropy of a softmax over k classes. Λ > 0 makes L strongly convex: ‖∇L(θ)‖ bounds the distance to the
minimum by ‖∇L‖ / Λ.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Link = Literal["logistic", "softmax"]

_CG_STEPS = 1000
_SQUARINGS = 4
_TRAINING_RTOL = 1e-2
_PRICE = 32
"""Parameters of a row for which building a factor costs as much as one step of conjugate gradients."""


@dataclass(frozen=True, kw_only=True)
class PerturbedLoss:
    """L and its derivatives on one set of rows."""

    x: Tensor
    """`[n, p]` float64; one column after the other in memory is fastest."""
    targets: Tensor
    """`[n, k]` of 0 and 1."""
    l2: float
    """Λ > 0."""
    perturbation: Tensor
    """B `[p, k]`."""
    link: Link

    def probabilities(self, logits: Tensor) -> Tensor:
        """`[n, k]` of logits `[n, k]`."""
        return logits.sigmoid() if self.link == "logistic" else logits.softmax(1)

    def value(self, theta: Tensor, logits: Tensor) -> Tensor:
        """L(θ), whose logits are given."""
        loss = torch.nn.functional.softplus(logits).sum() if self.link == "logistic" else logits.logsumexp(1).sum()
        linear = (self.perturbation * theta).sum() - (self.targets * logits).sum()
        return loss + linear + self.l2 / 2 * theta.square().sum()

    def gradient(self, theta: Tensor, logits: Tensor) -> Tensor:
        """∇L(θ) `[p, k]`, whose logits are given; 2npk operations."""
        return self.x.mT @ (self.probabilities(logits) - self.targets) + self.l2 * theta + self.perturbation

    def curve(self, probabilities: Tensor, logits: Tensor) -> Tensor:
        """The second derivative of ℓ, row by row, applied to a change of the logits `[n, k]`."""
        if self.link == "logistic":
            return probabilities * (1 - probabilities) * logits
        return probabilities * (logits - (probabilities * logits).sum(1, keepdim=True))

    def approximate_inverse(self, probabilities: Tensor) -> Tensor:
        """A preconditioner `[p, p]`, the same for every column of θ: the inverse of their mean Hessian block.

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


@dataclass(frozen=True)
class Solution:
    """An approximate H⁻¹ g."""

    step: Tensor
    """`[p, k]`"""
    logits: Tensor
    """x · step, `[n, k]`"""
    iterations: int


class Preconditioner:
    """An approximate inverse Hessian that is kept while it serves, and built anew when it has become stale.

    Stale: the steps of conjugate gradients that it has cost beyond those of a fresh one, which are those of the first
    solve and one more, would have paid for a new one. That is at most twice the cost of the best moment, which nobody
    knows beforehand.
    """

    def __init__(self) -> None:
        self._inverse: Tensor | None = None
        self._first = 0
        self._excess = 0
        self.built = 0

    def refresh(self) -> None:
        """Build anew at the next use."""
        self._inverse = None

    def at(self, loss: PerturbedLoss, probabilities: Tensor) -> Tensor:
        """The approximate inverse to use where the probabilities are these."""
        if self._inverse is None or self._excess * _PRICE * loss.targets.shape[1] >= loss.x.shape[1]:
            self._inverse = loss.approximate_inverse(probabilities)
            self._first = self._excess = 0
            self.built += 1
        return self._inverse

    def used(self, iterations: int) -> None:
        """Count what a solve took."""
        self._first = self._first or iterations
        self._excess += max(iterations - self._first - 1, 0)


def solve(
    loss: PerturbedLoss, probabilities: Tensor, rhs: Tensor, preconditioner: Preconditioner, *, rtol: float
) -> Solution:
    """v with ‖Hv − g‖ <= rtol ‖g‖ (Frobenius) by preconditioned conjugate gradients; 4npk operations per iteration.

    H = ∇²L where the probabilities are `probabilities`, g = `rhs` `[p, k]`.
    """
    inverse = preconditioner.at(loss, probabilities)
    step, residual = torch.zeros_like(rhs), rhs.clone()
    step_logits = torch.zeros_like(probabilities)
    enough = rtol * float(rhs.norm())
    z = inverse @ residual
    direction, rz = z, (residual * z).sum()
    iterations = 0
    while iterations < _CG_STEPS and residual.norm() > enough:
        logits = loss.x @ direction
        curved = loss.x.mT @ loss.curve(probabilities, logits) + loss.l2 * direction
        alpha = rz / (direction * curved).sum()
        step += alpha * direction
        step_logits += alpha * logits
        residual -= alpha * curved
        iterations += 1
        z = inverse @ residual
        rz, previous = (residual * z).sum(), rz
        direction = z + rz / previous * direction
    preconditioner.used(iterations)
    return Solution(step, step_logits, iterations)


def solve_error(loss: PerturbedLoss, probabilities: Tensor, rhs: Tensor, solution: Solution) -> float:
    """‖Hv − g‖ of a solution, measured; 2npk operations."""
    curved = loss.x.mT @ loss.curve(probabilities, solution.logits) + loss.l2 * solution.step
    return float((curved - rhs).norm())


@dataclass(frozen=True)
class Minimum:
    """Where `minimise` stopped."""

    theta: Tensor
    logits: Tensor
    gradient: Tensor
    """∇L there, computed from θ alone."""
    newton_steps: int
    cg_steps: int

    @property
    def grad_norm(self) -> float:
        """‖∇L‖ (Frobenius), measured."""
        return float(self.gradient.norm())


def minimise(
    loss: PerturbedLoss,
    theta: Tensor,
    preconditioner: Preconditioner,
    *,
    tol: float,
    logits: Tensor | None = None,
    gradient: Tensor | None = None,
    min_steps: int = 0,
    max_steps: int = 100,
    rtol: float = _TRAINING_RTOL,
) -> Minimum:
    """Newton steps with backtracking from θ until ‖∇L‖ <= tol, or no step lowers L any more.

    Args:
        loss, theta: what to minimise, and from where.
        preconditioner: kept from one call to the next.
        tol: the gradient norm at which to stop.
        logits, gradient: those at θ, if they are known.
        min_steps, max_steps: Newton steps at least, and at most.
        rtol: how exactly each step is solved for.
    """
    logits = loss.x @ theta if logits is None else logits
    gradient = loss.gradient(theta, logits) if gradient is None else gradient
    value = loss.value(theta, logits)
    newton_steps = cg_steps = 0
    while newton_steps < max_steps and (newton_steps < min_steps or float(gradient.norm()) > tol):
        found = solve(loss, loss.probabilities(logits), gradient, preconditioner, rtol=rtol)
        cg_steps += found.iterations
        t = _backtrack(loss, theta, logits, value, found, float((gradient * found.step).sum()))
        if t == 0:  # no decrease is left that float64 can see
            break
        theta = theta - t * found.step
        logits = loss.x @ theta  # anew, so that the gradient is that of θ and rounding does not add up
        gradient, value = loss.gradient(theta, logits), loss.value(theta, logits)
        newton_steps += 1
    return Minimum(theta, logits, gradient, newton_steps, cg_steps)


def _backtrack(
    loss: PerturbedLoss, theta: Tensor, logits: Tensor, value: Tensor, step: Solution, slope: float
) -> float:
    """The first t of 1, ½, ¼, … that lowers L enough (Armijo); 0 if none."""
    t, rounding = 1.0, 1e-13 * float(value.abs())
    while t > 1e-10:
        if loss.value(theta - t * step.step, logits - t * step.logits) <= value - 1e-4 * t * slope + rounding:
            return t
        t /= 2
    return 0.0


def spectral_bound(x: Tensor) -> float:
    """An upper bound of the largest singular value of x `[n, p]`, at most p^(1/64) times it.

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
