"""Softmax regression to convergence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from efface import newton
from efface.moments import require_finite
from efface.newton import Minimum
from efface.softmax.objective import BinaryObjective, LinearObjective, SoftmaxObjective
from efface.softmax.steps import GradientStep, NewtonSteps

_ROUNDING = 1e-13


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

    @property
    def theta(self) -> Tensor:
        """θ `[K, d]`, or `[K, d + 1]` with the bias in the last column: where another fit may start."""
        return self.weight if self.bias is None else torch.cat([self.weight, self.bias[:, None]], 1)

    def logits(self, x: Tensor) -> Tensor:
        """Return `[n, K]` for x `[n, d]`."""
        return torch.nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def head(self, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
        """Return the same map as a linear layer, with a bias whether fitted or not."""
        k, d = self.weight.shape
        head = torch.nn.Linear(d, k, dtype=dtype, device=self.weight.device)
        with torch.no_grad():
            head.weight.copy_(self.weight)
            head.bias.copy_(torch.zeros(k) if self.bias is None else self.bias)
        return head.requires_grad_(False)


@torch.no_grad()
def fit_softmax(
    x: Tensor,
    y: Tensor,
    *,
    n_classes: int | None = None,
    weight: Tensor | None = None,
    l2: float = 0.0,
    bias: bool = True,
    init: Tensor | None = None,
    tol: float = 1e-8,
    max_iter: int = 100,
) -> SoftmaxFit:
    """Minimise f by Newton's method with backtracking; each step is found by conjugate gradients.

    Args:
        x, y, n_classes, weight, l2, bias: see `SoftmaxObjective`.
        init: θ to start from, `[K, d]` or with a bias `[K, d + 1]`, such as an earlier fit's `theta`; zero if None.
        tol: converged when no entry of the gradient exceeds it. Scale x first: the gradient has its units.
        max_iter: Newton steps. Separable data without a penalty have no minimum; the fit then says `converged=False`
            unless the gradient falls below `tol` on the way.

    Few fits need more than ten steps. Each costs 4nKd operations for loss and gradient, and 4nKd in float32 for each
    of its products with the Hessian. With a penalty and fewer samples than features, n takes the place of d, after one
    QR factorisation (2n²d).
    """
    objective, basis = _spanned(x, y, n_classes=n_classes, weight=weight, l2=l2, bias=bias)
    return _embedded(minimise(objective, init=_coordinates(init, basis), tol=tol, max_iter=max_iter), basis)


@torch.no_grad()
def softmax_path(
    x: Tensor,
    y: Tensor,
    l2: Sequence[float],
    *,
    n_classes: int | None = None,
    weight: Tensor | None = None,
    bias: bool = True,
    tol: float = 1e-8,
    max_iter: int = 100,
) -> Iterator[SoftmaxFit]:
    """Yield `fit_softmax` for each penalty, from strong to weak: each starts where the last one ended."""
    objective, basis = _spanned(x, y, n_classes=n_classes, weight=weight, l2=min(l2), bias=bias)
    theta = None
    for penalty in l2:
        fit = minimise(objective.with_l2(penalty), init=theta, tol=tol, max_iter=max_iter)
        theta = fit.theta
        yield _embedded(fit, basis)


@torch.no_grad()
def minimise(
    objective: SoftmaxObjective,
    *,
    init: Tensor | None = None,
    tol: float = 1e-8,
    max_iter: int = 100,
    steps: NewtonSteps | None = None,
) -> SoftmaxFit:
    """Minimise an objective that is there already; see `fit_softmax`.

    Args:
        steps: finds the steps of several fits to one data set, which then share what preconditions them.
    """
    theta = objective.x.new_zeros(objective.shape) if init is None else init.to(objective.x)
    if theta.shape != objective.shape:
        raise ValueError(f"init has parameters {list(theta.shape)}, but the problem needs {list(objective.shape)}")
    if steps is None:
        steps = NewtonSteps(tol)
    steps.restart()
    descend = _descend_binary if objective.n_classes == 2 else _descend
    loss, minimum = descend(objective, theta, steps, tol, max_iter)
    theta = minimum.theta
    return SoftmaxFit(
        weight=theta[:, :-1] if objective.bias else theta,
        bias=theta[:, -1] if objective.bias else None,
        loss=loss,
        grad_norm=minimum.grad_norm,
        iterations=minimum.iterations,
        converged=minimum.converged,
    )


def _descend(
    objective: LinearObjective, theta: Tensor, steps: NewtonSteps, tol: float, max_iter: int
) -> tuple[float, Minimum]:
    """Return the loss at the minimum, and the minimum."""
    point, minimum = newton.minimise(
        objective.at(theta), [steps, GradientStep()], tol=tol, max_iter=max_iter, rounding=_ROUNDING
    )
    return float(objective.loss(point.logits)), minimum


def _descend_binary(
    objective: SoftmaxObjective, theta: Tensor, steps: NewtonSteps, tol: float, max_iter: int
) -> tuple[float, Minimum]:
    """Return the same, found in the difference of the two rows; a start at the minimum is not moved."""
    reduced = BinaryObjective(objective)
    start = reduced.at(reduced.reduced(theta))
    grad_norm = newton.largest_entry(reduced.whole_gradient(theta, start.gradient))
    if grad_norm <= tol or max_iter == 0:
        loss = float(reduced.loss(start.logits))
        return loss, Minimum(theta=theta, iterations=0, grad_norm=grad_norm, converged=grad_norm <= tol)
    loss, minimum = _descend(reduced, start.theta, steps, tol, max_iter)
    return loss, replace(minimum, theta=reduced.restored(minimum.theta, theta))


def _spanned(
    x: Tensor, y: Tensor, *, n_classes: int | None, weight: Tensor | None, l2: float, bias: bool
) -> tuple[SoftmaxObjective, Tensor | None]:
    """Return the objective, in the coordinates of a basis `[d, n]` of the samples' span if that is smaller."""
    options = {"n_classes": n_classes, "weight": weight, "l2": l2, "bias": bias}
    if x.ndim != 2 or not x.shape[1] > len(x) > 0 or l2 <= 0:
        return SoftmaxObjective(x, y, **options), None  # type: ignore[arg-type]
    # With a penalty the rows of W lie in the span of the samples.
    require_finite(x, "x")
    basis, coordinates = torch.linalg.qr(x.to(torch.float64).mT)
    return SoftmaxObjective(coordinates.mT, y, **options), basis  # type: ignore[arg-type]


def _coordinates(theta: Tensor | None, basis: Tensor | None) -> Tensor | None:
    """Return θ with its weights in the basis, if there is one; a bias stays as it is."""
    if theta is None or basis is None or theta.shape[1] not in (len(basis), len(basis) + 1):
        return theta
    d = len(basis)
    return torch.cat([theta[:, :d].to(basis) @ basis, theta[:, d:].to(basis)], 1)


def _embedded(fit: SoftmaxFit, basis: Tensor | None) -> SoftmaxFit:
    return fit if basis is None else replace(fit, weight=fit.weight @ basis.mT)
