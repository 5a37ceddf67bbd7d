"""Multinomial logistic regression: loss, gradient, exact Hessian, and a solver that converges.

Every linear fit of the project goes through here: probes, re-fitted heads, and the inner problems of the methods. The
objective over θ = (W, b), W `[K, d]`, b `[K]`, is

    f(θ) = Σ_i w_i (logsumexp(z_i) − z_{i, y_i}) / Σ_i w_i + λ/2 ‖W‖²,        z_i = W x_i + b,

in nats, with the bias unpenalised: scikit-learn's `LogisticRegression` with λ = 1 / (C n). All K classes keep their
own row; without a penalty that leaves directions in which f is constant, along which no step is ever taken.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from efface.moments import require_finite

Solver = Literal["cg", "cholesky"]

_CG_STEPS = 250


@dataclass(frozen=True)
class SoftmaxFit:
    """A fitted regression, in float64."""

    weight: Tensor
    """`[K, d]`"""
    bias: Tensor | None
    """`[K]`, or None if fitted without one."""
    loss: float
    """The weighted mean cross-entropy in nats, without the penalty."""
    grad_norm: float
    """Largest absolute entry of the gradient of the objective."""
    iterations: int
    converged: bool

    def logits(self, x: Tensor) -> Tensor:
        """`[n, K]` for x `[n, d]`."""
        return torch.nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def head(self, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
        """The same map as a linear layer, with a bias whether fitted or not."""
        k, d = self.weight.shape
        head = torch.nn.Linear(d, k, dtype=dtype, device=self.weight.device)
        with torch.no_grad():
            head.weight.copy_(self.weight)
            head.bias.copy_(torch.zeros(k) if self.bias is None else self.bias)
        return head.requires_grad_(False)


class SoftmaxObjective:
    """f and its derivatives on one data set. Parameters are `[K, d]`, or `[K, d + 1]` with the bias in the last column.

    Args:
        x: `[n, d]`; copied to float64.
        y: labels `[n]` in 0 … K − 1.
        n_classes: K; the largest label plus one if None, at least 2.
        weight: importance weights `[n]`, >= 0; normalised here.
        l2: λ >= 0.
        bias: with an intercept.

    Raises:
        ValueError: shapes do not fit, x is not finite, a label is out of range, all weights are zero.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        n_classes: int | None = None,
        weight: Tensor | None = None,
        l2: float = 0.0,
        bias: bool = True,
    ) -> None:
        if x.ndim != 2 or y.shape != (len(x),) or len(x) == 0:
            raise ValueError(f"x has shape {list(x.shape)} and y {list(y.shape)}: give x [n, d] and y [n], n > 0")
        if y.is_floating_point() or y.is_complex():
            raise ValueError(f"y has dtype {y.dtype}, but must hold integer labels")
        if l2 < 0 or not math.isfinite(l2):
            raise ValueError(f"l2 is {l2}, but must be >= 0")
        require_finite(x, "x")
        y = y.to(x.device, torch.int64)
        self.n_classes = max(int(y.max()) + 1, 2) if n_classes is None else n_classes
        if int(y.min()) < 0 or int(y.max()) >= self.n_classes:
            raise ValueError(
                f"y has labels from {int(y.min())} to {int(y.max())}, but they must lie in 0 … {self.n_classes - 1}"
            )
        x = x.to(torch.float64)
        self.bias, self.l2 = bias, l2
        # One feature after the other in memory, and logits one class after the other: products with few columns, which
        # take nearly all of the time, are about twice as fast.
        self.x = torch.cat([x.mT, x.new_ones(1, len(x))]).mT if bias else x.mT.contiguous().mT
        self.y = y
        self.weight = x.new_full((len(x),), 1 / len(x))
        if weight is not None:
            if weight.shape != y.shape or not bool((weight >= 0).all()) or not 0 < float(weight.sum()) < math.inf:
                raise ValueError(f"weight must hold {len(x)} finite values >= 0, not all zero")
            self.weight = weight.to(self.x) / weight.to(self.x).sum()
        self.penalty = self.x.new_full((self.x.shape[1],), l2)
        if bias:
            self.penalty[-1] = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the parameters."""
        return self.n_classes, self.x.shape[1]

    def logits(self, theta: Tensor) -> Tensor:
        """`[n, K]`, in 2nKd operations."""
        return (theta @ self.x.mT).mT

    def loss(self, logits: Tensor) -> Tensor:
        """Weighted mean cross-entropy, without the penalty."""
        return self.weight @ (logits.mT.logsumexp(0) - logits.gather(1, self.y[:, None])[:, 0])

    def value(self, theta: Tensor, logits: Tensor) -> Tensor:
        """The objective f at θ, whose logits are given."""
        return self.loss(logits) + (self.penalty * theta.square()).sum() / 2

    def gradient(self, theta: Tensor, probabilities: Tensor) -> Tensor:
        """∇f `[K, d(+1)]` at θ, whose softmax `[n, K]` is given; 2nKd operations."""
        residual = probabilities * self.weight[:, None]
        residual[torch.arange(len(self.y), device=self.y.device), self.y] -= self.weight
        return (self.x.mT @ residual).mT + self.penalty * theta

    def hvp(self, direction: Tensor, probabilities: Tensor) -> Tensor:
        """∇²f · direction, `[K, d(+1)]`, without forming the Hessian; 4nKd operations."""
        q = self.logits(direction)
        q = probabilities * (q - (probabilities * q).sum(1, keepdim=True)) * self.weight[:, None]
        return (self.x.mT @ q).mT + self.penalty * direction

    def hessian(self, probabilities: Tensor) -> Tensor:
        """∇²f exactly, `[K(d+1), K(d+1)]` in the order of `theta.flatten()`; n(Kd)² operations.

        Block (k, l) is Xᵀ diag(w p_k (δ_kl − p_l)) X + δ_kl λ. Singular along the directions that add one vector to all
        rows of θ unless these are penalised.
        """
        k, d = self.shape
        blocks = self.x.new_empty(k, d, k, d)
        for i in range(k):
            # One product for the blocks (i, i), (i, i+1), … of this block row.
            right = -probabilities[:, i:, None] * self.x[:, None]
            right[:, 0] += self.x
            left = self.x * (self.weight * probabilities[:, i])[:, None]
            row = (left.mT @ right.flatten(1)).view(d, k - i, d)
            blocks[i, :, i:] = row
            blocks[i:, :, i] = row.permute(1, 2, 0)
        hessian = blocks.view(k * d, k * d)
        hessian.diagonal().add_(self.penalty.repeat(k))
        return hessian

    @cached_property
    def _unpenalised(self) -> Tensor:
        return (self.penalty == 0).to(self.x)

    def cholesky_step(self, gradient: Tensor, probabilities: Tensor) -> Tensor:
        """(∇²f)⁻¹ gradient by a Cholesky factorisation of the exact Hessian; n(Kd)² + (Kd)³/3 operations."""
        k, d = self.shape
        hessian = self.hessian(probabilities)
        # A gradient has no part along "one vector added to all rows" where rows are unpenalised, so any curvature
        # there leaves the step as it is and makes the matrix definite.
        curvature = hessian.diagonal().mean()
        null = torch.diag(self._unpenalised * curvature / k)
        hessian = (hessian.view(k, d, k, d) + null[:, None]).view(k * d, k * d)
        for jitter in (0.0, 1e-12, 1e-9, 1e-6):
            L, failed = torch.linalg.cholesky_ex(hessian + jitter * curvature * torch.eye(k * d).to(hessian))
            if not failed:
                return torch.cholesky_solve(gradient.reshape(-1, 1), L).view(k, d)
        return gradient / hessian.diagonal().max()

    def gradient_step(self, gradient: Tensor, probabilities: Tensor) -> Tensor:
        """The gradient over a bound of the Hessian's largest eigenvalue, ½ Σ w ‖x‖² + λ: it always lowers f."""
        return gradient / (self.weight @ self.x.square().sum(1) / 2 + self.l2)

    def cg_step(self, gradient: Tensor, probabilities: Tensor) -> Tensor:
        """(∇²f)⁻¹ gradient by conjugate gradients, to a tolerance that tightens with the gradient.

        Preconditioned by the mean of the Hessian's diagonal blocks, one d × d matrix for all classes: nd² operations,
        against n(Kd)² for the Hessian itself.
        """
        spread = self.weight * (1 - probabilities.square().sum(1)) / self.n_classes
        block = (self.x * spread[:, None]).mT @ self.x
        block.diagonal().add_(self.penalty + 1e-10 * block.diagonal().mean() + 1e-300)
        L, failed = torch.linalg.cholesky_ex(block)
        if failed:
            L = block.diagonal().sqrt().diag()

        def precondition(r: Tensor) -> Tensor:
            return torch.cholesky_solve(r.mT, L).mT

        norm = float(gradient.norm())
        tolerance = min(0.1, math.sqrt(norm)) * norm
        step, residual = torch.zeros_like(gradient), gradient.clone()
        z = precondition(residual)
        direction, rz = z, (residual * z).sum()
        for _ in range(_CG_STEPS):
            curved = self.hvp(direction, probabilities)
            curvature = (direction * curved).sum()
            if curvature <= 0:  # rounding, in a direction in which f is flat
                break
            alpha = rz / curvature
            step += alpha * direction
            residual -= alpha * curved
            if residual.norm() <= tolerance:
                break
            z = precondition(residual)
            rz, previous = (residual * z).sum(), rz
            direction = z + rz / previous * direction
        return step


@torch.no_grad()
def fit_softmax(
    x: Tensor,
    y: Tensor,
    *,
    n_classes: int | None = None,
    weight: Tensor | None = None,
    l2: float = 0.0,
    bias: bool = True,
    init: SoftmaxFit | None = None,
    tol: float = 1e-8,
    max_iter: int = 100,
    solver: Solver = "cg",
) -> SoftmaxFit:
    """Minimise f by Newton's method with backtracking (Boyd & Vandenberghe, Convex Optimization, algorithm 9.5).

    Args:
        x, y, n_classes, weight, l2, bias: see `SoftmaxObjective`.
        init: where to start, an earlier fit of the same shape; zero if None.
        tol: converged when no entry of the gradient exceeds it. Scale x first: the gradient has its units.
        max_iter: Newton steps. Separable data without a penalty have no minimum; the fit then says `converged=False`
            unless the gradient falls below `tol` on the way.
        solver: how a step is found: `cg` matrix-free, which is faster at every size tried; `cholesky` from the exact
            Hessian, for features so collinear that conjugate gradients stall.

    Cost per step, beyond about ten of which few fits go: 2nKd operations for loss and gradient, and those of the step.
    With a penalty and fewer samples than features, n takes the place of d, after one QR factorisation (2n²d).
    """
    if x.ndim == 2 and x.shape[1] > len(x) > 0 and l2 > 0:
        # With a penalty the rows of W lie in the span of the samples, whose coordinates are fewer than the features.
        require_finite(x, "x")
        basis, coordinates = torch.linalg.qr(x.to(torch.float64).mT)
        objective = SoftmaxObjective(coordinates.mT, y, n_classes=n_classes, weight=weight, l2=l2, bias=bias)
        if init is not None:
            init = replace(init, weight=init.weight.to(basis) @ basis)
        fit = minimise(objective, init=init, tol=tol, max_iter=max_iter, solver=solver)
        return replace(fit, weight=fit.weight @ basis.mT)
    objective = SoftmaxObjective(x, y, n_classes=n_classes, weight=weight, l2=l2, bias=bias)
    return minimise(objective, init=init, tol=tol, max_iter=max_iter, solver=solver)


@torch.no_grad()
def minimise(
    objective: SoftmaxObjective,
    *,
    init: SoftmaxFit | None = None,
    tol: float = 1e-8,
    max_iter: int = 100,
    solver: Solver = "cg",
) -> SoftmaxFit:
    """`fit_softmax` on an objective that is there already."""
    if solver not in ("cg", "cholesky"):
        raise ValueError(f"solver is {solver!r}, but must be 'cg' or 'cholesky'")
    # Far from the minimum a saturated softmax has no curvature that float64 can see, and a Newton step may overshoot
    # beyond what backtracking mends; a gradient step of a safe length never does.
    finders = [objective.cg_step, objective.gradient_step]
    if solver == "cholesky":
        finders.insert(0, objective.cholesky_step)
    theta = objective.x.new_zeros(objective.shape)
    if init is not None:
        start = init.weight if init.bias is None else torch.cat([init.weight, init.bias[:, None]], 1)
        if start.shape != theta.shape:
            raise ValueError(f"init has parameters {list(start.shape)}, but the problem needs {list(theta.shape)}")
        theta = start.to(theta)

    logits = objective.logits(theta)
    value = objective.value(theta, logits)
    iterations = 0
    while True:
        probabilities = logits.mT.softmax(0).mT  # in the layout of the logits
        gradient = objective.gradient(theta, probabilities)
        grad_norm = float(gradient.abs().max())
        if grad_norm <= tol or iterations == max_iter:
            break
        for find_step in finders:
            step = find_step(gradient, probabilities)
            t, logits_at_t, value_at_t = _backtrack(
                objective, theta, logits, value, step, float((gradient * step).sum())
            )
            if t > 0:
                break
        else:  # no decrease is left that float64 can see
            break
        theta, logits, value = theta - t * step, logits_at_t, value_at_t
        iterations += 1
    return SoftmaxFit(
        weight=theta[:, :-1] if objective.bias else theta,
        bias=theta[:, -1] if objective.bias else None,
        loss=float(objective.loss(logits)),
        grad_norm=grad_norm,
        iterations=iterations,
        converged=grad_norm <= tol,
    )


def _backtrack(
    objective: SoftmaxObjective, theta: Tensor, logits: Tensor, value: Tensor, step: Tensor, slope: float
) -> tuple[float, Tensor, Tensor]:
    """The first t of 1, ½, ¼, … that lowers the objective enough (Armijo), with logits and value there; 0 if none."""
    step_logits = objective.logits(step)
    t, rounding = 1.0, 1e-14 * float(value.abs())
    while t > 1e-10:
        new_logits = logits - t * step_logits
        new_value = objective.value(theta - t * step, new_logits)
        if new_value <= value - 1e-4 * t * slope + rounding:
            return t, new_logits, new_value
        t /= 2
    return 0.0, logits, value
