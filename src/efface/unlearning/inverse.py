"""Inverse Hessians times vectors: exact, by conjugate gradients, or by LiSSA, behind one call.

Each solves (H + damping · I) v = b for b of the parameters' shape. Damping is explicit: it is added to whatever the
objective's own penalty is, and nothing else is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from efface.newton import LinearMap, conjugate_gradients
from efface.softmax import FACTORED, BinaryObjective, LinearObjective, SoftmaxObjective, curved_factor, mean_block

InverseSolver = Literal["auto", "cholesky", "cg", "lissa"]
SOLVERS = ("auto", "cholesky", "cg", "lissa")

_EXACT_OPERATIONS = 2e10
"""n p² up to which `auto` builds the Hessian; and p up to the cube root of about it."""
_MOST_FACTORED = 30_000
"""Parameters up to which the Hessian is built where it is asked for: 7 GB, and as much for its factor."""


class NotPositiveDefiniteError(ValueError):
    """The damped Hessian has no inverse that makes a descent step."""

    def __init__(self, eigenvalue: float, damping: float) -> None:
        need = damping - eigenvalue
        super().__init__(
            f"damping is {damping:.3g}, but with it the Hessian is not positive definite: it has an eigenvalue of "
            f"{eigenvalue:.3g} or less. A damping above {max(need, 0) * 1.01 + 1e-12:.3g} makes it so"
        )


class InverseHessian(Protocol):
    """(H + damping · I)⁻¹."""

    damping: float

    def __call__(self, b: Tensor) -> Tensor:
        """Return the solution for b, of its shape."""
        ...


class CholeskyInverse:
    """From the Hessian itself: exact, p³/3 operations once and 2p² for each b; p² numbers.

    Args:
        hessian: `[p, p]` symmetric.
        damping: >= 0.

    Raises:
        NotPositiveDefiniteError: with the damping that would do.
    """

    def __init__(self, hessian: Tensor, *, damping: float) -> None:
        self.damping = _checked(damping)
        damped = hessian.clone()
        damped.diagonal().add_(damping)
        self._factor, failed = torch.linalg.cholesky_ex(damped)
        pivots = self._factor.diagonal().square()
        rounding = len(hessian) * torch.finfo(hessian.dtype).eps
        if failed or bool(pivots.min() < rounding * pivots.max()):
            smallest = float(torch.linalg.eigvalsh(damped)[0])
            if failed or smallest <= rounding * float(pivots.max()):
                raise NotPositiveDefiniteError(min(smallest, 0.0), damping)

    def __call__(self, b: Tensor) -> Tensor:
        return torch.cholesky_solve(b.reshape(-1, 1), self._factor).view_as(b)


class CgInverse:
    """By preconditioned conjugate gradients: no Hessian, one product with it a step.

    Args:
        product: b ↦ H b.
        damping: >= 0.
        precondition: r ↦ an approximation of (H + damping · I)⁻¹ r, symmetric and positive definite; none if None.
        tol: on ‖b − (H + damping · I) v‖ / ‖b‖.
        max_iter: products for one b.

    Raises:
        NotPositiveDefiniteError: on meeting a direction of negative curvature.
        ArithmeticError: `max_iter` products did not reach `tol`; more damping needs fewer.
    """

    def __init__(
        self,
        product: LinearMap,
        *,
        damping: float,
        precondition: LinearMap | None = None,
        tol: float = 1e-8,
        max_iter: int = 2000,
    ) -> None:
        self.damping = _checked(damping)
        self._product, self._precondition = product, precondition or (lambda r: r)
        self._tol, self._max_iter = tol, max_iter

    def __call__(self, b: Tensor) -> Tensor:
        solved = conjugate_gradients(
            lambda v: self._product(v) + self.damping * v,
            b,
            precondition=self._precondition,
            tol=self._tol,
            max_iter=self._max_iter,
        )
        if solved.curvature <= 0:
            raise NotPositiveDefiniteError(solved.curvature, self.damping)
        if not solved.residual <= self._tol:
            raise ArithmeticError(
                f"{solved.iterations} conjugate gradient steps left a residual of {solved.residual:.1e} against "
                f"{self._tol:.1e}: raise damping, now {self.damping:.3g}, or max_iter"
            )
        return solved.solution


class BinaryInverse:
    """Of a head of two classes, from the inverse for the difference of its rows: half the parameters.

    In the sum of the rows H is what they are penalised by, twice that of the difference.

    Args:
        reduced: the objective in the difference.
        inner: the inverse of its Hessian with half the damping.
        damping: >= 0.

    Raises:
        NotPositiveDefiniteError: a column is neither penalised nor damped, so that H is 0 along its sum.
    """

    def __init__(self, reduced: BinaryObjective, inner: InverseHessian, damping: float) -> None:
        self.damping, self._inner = damping, inner
        self._along_sum = 2 * reduced.penalty + damping
        if not bool((self._along_sum > 0).all()):
            raise NotPositiveDefiniteError(float(self._along_sum.min()), damping)

    def __call__(self, b: Tensor) -> Tensor:
        difference = self._inner((b[1] - b[0])[None] / 2)
        total = (b[0] + b[1]) / self._along_sum
        return torch.cat([total - difference, total + difference]) / 2


class LissaInverse:
    """By LiSSA: v ← b + (I − (H_B + damping · I) / σ) v on random batches B, then v / σ (Agarwal et al., JMLR 2017).

    Its error falls like (1 − damping/σ)ᵗ and then stays at the noise of the batches, of which the mean of the last half
    of the steps takes most: small damping needs many steps. Worth its while only where n is far too large for products
    with all samples.

    Args:
        product: b, rows ↦ H b estimated on these samples.
        n: samples to draw rows from.
        scale: σ, at least the largest eigenvalue of any H_B + damping · I, or the recursion diverges.
        damping: > 0.
        steps: of the recursion.
        batch_size: rows of each.
        seed: draws the batches.

    Raises:
        ArithmeticError: the recursion diverged.
    """

    def __init__(
        self,
        product: Callable[[Tensor, Tensor], Tensor],
        *,
        n: int,
        scale: float,
        damping: float,
        steps: int = 2000,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if not _checked(damping) > 0:
            raise ValueError("damping is 0, but LiSSA needs it positive: it converges like (1 − damping/scale)ᵗ")
        self.damping, self._product, self._n, self._scale = damping, product, n, scale
        self._steps, self._batch, self._seed = steps, min(batch_size, n), seed

    def __call__(self, b: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed)
        v, mean = b.clone(), torch.zeros_like(b)
        tail = self._steps - self._steps // 2
        for step in range(self._steps):
            rows = torch.randint(self._n, (self._batch,), generator=generator).to(b.device)
            v = b + v - (self._product(v, rows) + self.damping * v) / self._scale
            if step >= self._steps - tail:
                mean += v / tail
        if not bool(mean.isfinite().all()):
            raise ArithmeticError(f"LiSSA diverged with scale {self._scale:.3g}: raise scale, or damping")
        return mean / self._scale


@dataclass(frozen=True)
class _Rows:
    """Products with the Hessian on some samples of an objective, reweighted to stand for all of them."""

    objective: SoftmaxObjective
    probabilities: Tensor

    def __call__(self, v: Tensor, rows: Tensor) -> Tensor:
        x, p, f = self.objective.x[rows], self.probabilities[rows], self.objective
        q = x @ v.mT
        q = p * (q - (p * q).sum(1, keepdim=True)) * (f.weight[rows] * len(f.y) / len(rows))[:, None]
        return q.mT @ x + f.penalty * v


def head_inverse(
    objective: SoftmaxObjective,
    probabilities: Tensor,
    *,
    damping: float = 0.0,
    solver: InverseSolver = "auto",
    tol: float = 1e-8,
    seed: int = 0,
) -> InverseHessian:
    """Return the inverse Hessian of a softmax objective at the θ whose softmax `[n, K]` is given.

    Args:
        objective: its own penalty is part of H.
        probabilities: at θ.
        damping: added to H.
        solver: `cholesky`, `cg` or `lissa`; `auto` takes the first where building H takes a fraction of a second
            (n p² <= 2e10 for p <= 2,000 parameters), else the second. p is K(d + 1), but d + 1 for two classes, which
            are solved in the difference of their rows. `cg` is preconditioned by a factor of an
            estimate of H, or above 5,000 parameters, where that would be p² numbers, by the mean diagonal block.
        tol: of `cg`.
        seed: of `lissa`.

    Raises:
        NotPositiveDefiniteError: damping and penalty are too small.
        ValueError: the solver is unknown, or `cholesky` for more than 30,000 parameters.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}, but must be one of {', '.join(SOLVERS)}")
    if solver == "lissa":
        return _lissa(objective, probabilities, damping, seed)
    if objective.n_classes != 2:
        return _exact(objective, probabilities, damping, solver, tol)
    reduced = BinaryObjective(objective)
    return BinaryInverse(reduced, _exact(reduced, probabilities[:, 1:], _checked(damping) / 2, solver, tol), damping)


def _exact(
    objective: LinearObjective, probabilities: Tensor, damping: float, solver: InverseSolver, tol: float
) -> InverseHessian:
    """Return the inverse by a factor, or by conjugate gradients."""
    p = math.prod(objective.shape)
    if solver == "auto":
        solver = "cholesky" if p <= 2000 and len(objective.x) * p**2 <= _EXACT_OPERATIONS else "cg"
    if solver == "cholesky":
        if p > _MOST_FACTORED:
            raise ValueError(
                f"solver is 'cholesky', but the Hessian of {p:,} parameters takes {8e-9 * p**2:,.0f} GB, and its "
                "factor as much again: take 'auto' or 'cg'"
            )
        return CholeskyInverse(objective.hessian(probabilities), damping=damping)
    precondition = None
    if isinstance(objective, SoftmaxObjective) and p <= FACTORED:
        precondition = curved_factor(objective, probabilities, _checked(damping))
    if precondition is None:
        precondition = mean_block(objective, probabilities, _checked(damping))
    return CgInverse(objective.product(probabilities), damping=damping, precondition=precondition, tol=tol)


def _lissa(objective: SoftmaxObjective, probabilities: Tensor, damping: float, seed: int) -> InverseHessian:
    # Σ_k p_k (δ_kl − p_l) has no eigenvalue above ½, so that no batch's Hessian has one above this.
    largest = objective.x.square().sum(1) * objective.weight * len(objective.y) / 2
    return LissaInverse(
        _Rows(objective, probabilities),
        n=len(objective.y),
        damping=damping,
        scale=float(largest.max()) + float(objective.penalty.max()) + damping,
        seed=seed,
    )


def _checked(damping: float) -> float:
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping is {damping}, but must be finite and >= 0")
    return damping
