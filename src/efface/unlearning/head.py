"""A linear head as what unlearning re-trains: its objective is convex, and its Hessian exact."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from efface.softmax import NewtonSteps, SoftmaxFit, SoftmaxObjective, minimise
from efface.unlearning.bias import Bias, head_logits
from efface.unlearning.influence import Influence, influence_on_bias
from efface.unlearning.inverse import InverseHessian, InverseSolver, head_inverse
from efface.unlearning.objective import Minimum, TrainingObjective


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear head, θ = `[K, d]` or `[K, d + 1]` with the intercept last, in float64.

    Args:
        n_classes: K >= 2.
        bias: with an intercept.
        tol: a minimum has no larger entry in its gradient.
    """

    n_classes: int
    bias: bool = True
    tol: float = 1e-6

    def objective(self, training: TrainingObjective) -> SoftmaxObjective:
        """Return the objective of a head, in all its derivatives."""
        return SoftmaxObjective(
            training.x,
            training.y,
            n_classes=self.n_classes,
            weight=training.weight,
            l2=training.l2,
            bias=self.bias,
            penalise_bias=True,
            centre=training.centre,
        )

    def entrance(self, theta: Tensor, d: int) -> tuple[Tensor, Tensor | None]:
        return theta[:, :d], theta[:, d] if self.bias else None

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        return head_logits(theta, x)

    def minimise(self, objective: TrainingObjective, theta: Tensor, *, max_iter: int) -> Minimum:
        fit = minimise(self.objective(objective), init=theta, tol=self.tol, max_iter=max_iter)
        return _minimum(fit)

    def around(self, objective: TrainingObjective, centre: Tensor) -> "HeadAround":
        return HeadAround(self.objective(replace(objective, centre=centre)), tol=self.tol)

    def gradient_sum(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if len(y) == 0:
            return torch.zeros_like(theta)
        f = SoftmaxObjective(x, y, n_classes=self.n_classes, bias=self.bias)
        theta = theta.to(f.x)
        return f.gradient(theta, f.logits(theta).softmax(1)) * len(y)

    def inverse(self, objective: TrainingObjective, theta: Tensor, solver: InverseSolver, seed: int) -> InverseHessian:
        f = self.objective(objective)
        return head_inverse(f, f.logits(theta.to(f.x)).softmax(1), solver=solver, tol=1e-6, seed=seed)

    def influence(self, objective: TrainingObjective, theta: Tensor, bias: Bias, inverse: InverseHessian) -> Influence:
        return influence_on_bias(self.objective(objective), theta, bias, inverse)


class HeadAround:
    """The loss of a head with a penalty around one θ₀; all minimisations share the data in memory and a factor."""

    def __init__(self, objective: SoftmaxObjective, *, tol: float) -> None:
        self.tol = tol
        self.curvature = objective.largest_curvature()
        self._objective, self._steps = objective, NewtonSteps(tol)

    def minimise(self, l2: float, theta: Tensor, *, max_iter: int) -> Minimum:
        fit = minimise(self._objective.with_l2(l2), init=theta, tol=self.tol, max_iter=max_iter, steps=self._steps)
        return _minimum(fit)


def head_parameters(head: torch.nn.Linear) -> Tensor:
    """Return θ of a linear layer, `[K, d(+1)]` in float64.

    Raises:
        TypeError: it is no linear layer with a logit for each of two classes or more.
        ValueError: its weights are not finite.
    """
    if not isinstance(head, torch.nn.Linear) or head.out_features < 2:
        raise TypeError(f"head is {_name(head)}, but unlearning needs a linear head with K >= 2 logits")
    if not all(bool(parameter.isfinite().all()) for parameter in head.parameters()):
        raise ValueError("head has NaN or infinite weights: it has diverged; train it anew")
    weight = head.weight.detach().double()
    return weight.clone() if head.bias is None else torch.cat([weight, head.bias.detach().double()[:, None]], 1)


def head_of(theta: Tensor, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    """Return the linear layer of θ, without gradients."""
    d = theta.shape[1] - bias
    head = torch.nn.Linear(d, theta.shape[0], bias=bias, dtype=dtype, device=theta.device)
    with torch.no_grad():
        head.weight.copy_(theta[:, :d])
        if bias:
            head.bias.copy_(theta[:, d])
    return head.requires_grad_(False)


def _minimum(fit: SoftmaxFit) -> Minimum:
    return Minimum(theta=fit.theta, iterations=fit.iterations, grad_norm=fit.grad_norm, converged=fit.converged)


def _name(module: Any) -> str:
    if isinstance(module, torch.nn.Linear):
        return f"a linear layer with {module.out_features} output"
    return f"a {type(module).__name__}"
