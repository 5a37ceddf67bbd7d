"""Multinomial logistic regression: loss, gradient, exact Hessian, and a solver that converges.

Every linear fit of the project goes through here: probes, re-fitted heads, and the inner problems of the methods. The
objective over θ = (W, b), W `[K, d]`, b `[K]`, is

    f(θ) = Σ_i w_i (logsumexp(z_i) − z_{i, y_i}) / Σ_i w_i + λ/2 ‖W‖²,        z_i = W x_i + b,

in nats, with the bias unpenalised: scikit-learn's `LogisticRegression` with λ = 1 / (C n). All K classes keep their
own row; without a penalty that leaves directions in which f is constant, along which no step is ever taken. Unlearning
penalises ‖θ − θ₀‖² instead, bias included, which leaves no such direction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from efface.moments import require_finite

Solver = Literal["cg", "cholesky", "factor"]

_CG_STEPS = 250
_STALE = 15
"""Products of one step beyond which a factor is made anew: that costs about as much as 25 more."""


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
        penalise_bias: penalise the intercept as the other parameters; all directions are then curved by λ at least.
        centre: θ₀ of the penalty λ/2 ‖θ − θ₀‖², of the parameters' shape; zero if None.

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
        penalise_bias: bool = False,
        centre: Tensor | None = None,
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
        self.bias, self.l2 = bias, l2
        # One feature after the other in memory, and logits one class after the other: products with few columns, which
        # take nearly all of the time, are about twice as fast.
        by_feature = x.new_ones(x.shape[1] + bias, len(x), dtype=torch.float64)
        by_feature[: x.shape[1]] = x.mT
        self.x = by_feature.mT
        self.y = y
        self.weight = self.x.new_full((len(x),), 1 / len(x))
        if weight is not None:
            if weight.shape != y.shape or not bool((weight >= 0).all()) or not 0 < float(weight.sum()) < math.inf:
                raise ValueError(f"weight must hold {len(x)} finite values >= 0, not all zero")
            self.weight = weight.to(self.x) / weight.to(self.x).sum()
        self.penalty = self.x.new_full((self.x.shape[1],), l2)
        if bias and not penalise_bias:
            self.penalty[-1] = 0
        if centre is not None and centre.shape != self.shape:
            raise ValueError(f"centre has shape {list(centre.shape)}, but the parameters have {list(self.shape)}")
        self.centre = self.x.new_zeros(self.shape) if centre is None else centre.to(self.x)

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
        return self.loss(logits) + (self.penalty * (theta - self.centre).square()).sum() / 2

    def gradient(self, theta: Tensor, probabilities: Tensor) -> Tensor:
        """∇f `[K, d(+1)]` at θ, whose softmax `[n, K]` is given; 2nKd operations."""
        residual = probabilities * self.weight[:, None]
        residual[torch.arange(len(self.y), device=self.y.device), self.y] -= self.weight
        return (self.x.mT @ residual).mT + self.penalty * (theta - self.centre)

    def sample_gradients(self, probabilities: Tensor) -> Tensor:
        """∇ of each sample's own cross-entropy, `[n, K, d(+1)]`, without weight and penalty. Holds nKd numbers."""
        residual = probabilities.clone()
        residual[torch.arange(len(self.y), device=self.y.device), self.y] -= 1
        return residual[:, :, None] * self.x[:, None]

    def sample_slopes(self, direction: Tensor, probabilities: Tensor) -> Tensor:
        """`sample_gradients` times one direction `[K, d(+1)]`, `[n]`, in 2nKd operations and without forming them."""
        q = self.logits(direction)
        return (probabilities * q).sum(1) - q.gather(1, self.y[:, None])[:, 0]

    def hvp(self, direction: Tensor, probabilities: Tensor) -> Tensor:
        """∇²f · direction, `[K, d(+1)]`, without forming the Hessian; 4nKd operations."""
        q = self.logits(direction)
        q = probabilities * (q - (probabilities * q).sum(1, keepdim=True)) * self.weight[:, None]
        return (self.x.mT @ q).mT + self.penalty * direction

    def hessian(
        self, probabilities: Tensor, rows: Tensor | None = None, *, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """∇²f exactly, `[K(d+1), K(d+1)]` in the order of `theta.flatten()`; n(Kd)² operations.

        Block (k, l) is Xᵀ diag(w p_k (δ_kl − p_l)) X + δ_kl λ. Singular along the directions that add one vector to all
        rows of θ unless these are penalised. With `rows`, these samples' share of it and the penalty.
        """
        k, d = self.shape
        x, weight = self.x, self.weight
        if rows is not None:
            x, weight, probabilities = x.mT[:, rows].mT, weight[rows], probabilities[rows]
        x, weight, probabilities = x.to(dtype), weight.to(dtype), probabilities.to(dtype)
        blocks = x.new_empty(k, d, k, d)
        for i in range(k):
            # One product for the blocks (i, i), (i, i+1), … of this block row.
            right = -probabilities[:, i:, None] * x[:, None]
            right[:, 0] += x
            left = x * (weight * probabilities[:, i])[:, None]
            row = (left.mT @ right.flatten(1)).view(d, k - i, d)
            blocks[i, :, i:] = row
            blocks[i:, :, i] = row.permute(1, 2, 0)
        hessian = blocks.view(k * d, k * d)
        hessian.diagonal().add_(self.penalty.to(dtype).repeat(k))
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
        block = (self.x * self._spread(probabilities)[:, None]).mT @ self.x
        block.diagonal().add_(self.penalty + 1e-10 * block.diagonal().mean() + 1e-300)
        L, failed = torch.linalg.cholesky_ex(block)
        if failed:
            L = block.diagonal().sqrt().diag()
        return conjugate_gradients(
            lambda direction: self.hvp(direction, probabilities), gradient,
            precondition=lambda r: torch.cholesky_solve(r.mT, L).mT, tol=_forcing(gradient), max_iter=_CG_STEPS,
        ).solution  # fmt: skip

    def factor(self, probabilities: Tensor, damping: float = 0.0) -> Tensor | None:
        """Cholesky factor of an approximate Hessian plus `damping`, or None if it is not definite.

        Exact to float32 on the samples that curve f most, as many as cost about 25 products; of the others, which a
        softmax that is sure of itself leaves little curvature, `cg_step`'s mean block.
        """
        k, d = self.shape
        spread = self._spread(probabilities)
        most = min(len(self.x), max(k * d, 100 * len(self.x) // (k * d)))
        rows = (spread * torch.linalg.vector_norm(self.x, dim=1).square()).topk(most).indices
        spread[rows] = 0
        # Of the others every so many are enough: a mean over 10 d samples.
        some = slice(None, None, max(1, len(self.x) // (10 * d)))
        x, scale = self.x[some], spread.sum() / (spread[some].sum() + 1e-300)
        block = (x * (spread[some] * scale)[:, None]).mT @ x
        approximate = self.hessian(probabilities, rows, dtype=torch.float32).to(block)
        blocks = approximate.view(k, d, k, d)
        for i in range(k):
            blocks[i, :, i] += block
        approximate.diagonal().add_(damping + 1e-7 * approximate.diagonal().mean())
        L, failed = torch.linalg.cholesky_ex(approximate)
        return None if failed else L

    def _spread(self, probabilities: Tensor) -> Tensor:
        """How much each sample curves f, averaged over the diagonal blocks, per ‖x‖²."""
        return self.weight * (1 - probabilities.square().sum(1)) / self.n_classes


class FactorStep:
    """`SoftmaxObjective.cg_step` preconditioned by `factor`, which is kept from step to step until it is stale.

    For objectives on which the mean block needs hundreds of products: features of a trained network, small penalty.
    """

    def __init__(self, objective: SoftmaxObjective) -> None:
        self._objective = objective
        # Steps need a few digits only: products in float32 take half the time.
        self._x = objective.x.mT.to(torch.float32).mT
        self._factor: Tensor | None = None
        self._products = _STALE

    def __call__(self, gradient: Tensor, probabilities: Tensor) -> Tensor:
        f = self._objective
        if self._products >= _STALE:
            self._factor = f.factor(probabilities)
        L = self._factor
        if L is None:
            return f.cg_step(gradient, probabilities)
        x, p = self._x, probabilities.to(self._x)
        weighted = p * f.weight.to(x)[:, None]

        def product(direction: Tensor) -> Tensor:
            q = (direction.to(x) @ x.mT).mT
            q = weighted * (q - (p * q).sum(1, keepdim=True))
            return (x.mT @ q).mT.to(direction) + f.penalty * direction

        found = conjugate_gradients(
            product, gradient, precondition=lambda r: torch.cholesky_solve(r.reshape(-1, 1), L).view_as(r),
            tol=_forcing(gradient), max_iter=_CG_STEPS,
        )  # fmt: skip
        self._products = found.iterations
        return found.solution


def _forcing(gradient: Tensor) -> float:
    """How exactly a Newton step is solved for: the more so the nearer the minimum, for superlinear convergence."""
    return min(0.1, math.sqrt(float(gradient.norm())))


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
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    precondition: Callable[[Tensor], Tensor],
    tol: float,
    max_iter: int,
) -> LinearSolution:
    """Solve A x = b for symmetric positive definite A, given by its products, to ‖b − A x‖ <= tol ‖b‖.

    Stops early, with what it has, in a direction of no positive curvature: rounding, where A is singular.
    """
    norm = float(b.norm())
    x, residual = torch.zeros_like(b), b.clone()
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
        solver: how a step is found: `cg` matrix-free, which is faster than `cholesky`, from the exact Hessian, at every
            size tried unless features are so collinear that conjugate gradients stall; `factor`, conjugate gradients on
            a factor of the most curved samples' Hessian, for features of a trained network under a small penalty.

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
    if solver not in ("cg", "cholesky", "factor"):
        raise ValueError(f"solver is {solver!r}, but must be 'cg', 'cholesky' or 'factor'")
    # Far from the minimum a saturated softmax has no curvature that float64 can see, and a Newton step may overshoot
    # beyond what backtracking mends; a gradient step of a safe length never does.
    finders = [objective.cg_step, objective.gradient_step]
    if solver != "cg":
        finders.insert(0, objective.cholesky_step if solver == "cholesky" else FactorStep(objective))
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
