"""The last layers of a network, re-trained together and matrix-free, through `torch.func`.

The objective is not convex. The Hessian is replaced by the Gauss–Newton matrix Jᵀ H_z J, with J the Jacobian of the
logits and H_z the Hessian of the loss with respect to them: positive semi-definite, and the Hessian itself where the
logits are linear in θ (Martens, "New insights and perspectives on the natural gradient method", JMLR 2020).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface import newton
from efface.newton import LinearMap, NewtonCg
from efface.unlearning.bias import Bias
from efface.unlearning.influence import Influence
from efface.unlearning.inverse import CgInverse, InverseHessian, InverseSolver
from efface.unlearning.objective import Minimum, TrainingObjective

_PRODUCTS = 30
"""Products for one step of a minimisation, which needs no exact solution."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """θ `[p]` float32: all parameters of a stack of layers, flattened in order.

    Args:
        module: maps `[m, d]` to logits `[m, K]`; its own parameters are only read by `parameters`.
        tol: a minimum has no larger entry in its gradient.
    """

    module: nn.Module
    tol: float = 1e-4

    def parameters(self) -> Tensor:
        """Return θ of the module as it is."""
        return torch.cat([t.detach().float().flatten() for t in self.module.parameters()])

    def tensors(self, theta: Tensor) -> dict[str, Tensor]:
        """Return θ as the module's named parameters."""
        named = dict(self.module.named_parameters())
        parts = theta.split([t.numel() for t in named.values()])
        return {name: part.view_as(t) for (name, t), part in zip(named.items(), parts, strict=True)}

    def entrance(self, theta: Tensor, d: int) -> tuple[Tensor, Tensor | None]:
        tensors = self.tensors(theta)
        first = next(name.removesuffix("weight") for name in tensors if name.endswith("weight"))
        return tensors[f"{first}weight"], tensors.get(f"{first}bias")

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.module, self.tensors(theta), (x.to(theta),))  # type: ignore[no-any-return]

    def losses(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each sample, `[m]`."""
        return functional.cross_entropy(self.logits(theta, x), y, reduction="none")

    def point(self, objective: TrainingObjective, theta: Tensor) -> "LayersPoint":
        """Return the training objective at θ."""
        return LayersPoint(self, objective, theta)

    def minimise(self, objective: TrainingObjective, theta: Tensor, *, max_iter: int) -> Minimum:
        """Take Gauss–Newton steps by conjugate gradients, halved until the objective falls, to a local minimum.

        A step that had to be halved makes the next one more cautious.
        """
        steps = NewtonCg[LayersPoint](None, rtol=lambda _: 0.1, max_products=_PRODUCTS, caution=objective.l2)
        return newton.minimise(self.point(objective, theta), [steps], tol=self.tol, max_iter=max_iter)[1]

    def around(self, objective: TrainingObjective, centre: Tensor) -> "LayersAround":
        return LayersAround(self, replace(objective, centre=centre))

    def gradient_sum(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if len(y) == 0:
            return torch.zeros_like(theta)
        return _gradient(lambda t: self.losses(t, x, y).sum(), theta)

    def inverse(self, objective: TrainingObjective, theta: Tensor, solver: InverseSolver, seed: int) -> InverseHessian:
        """Return that of the Gauss–Newton matrix, by conjugate gradients: there is no matrix to factor."""
        if solver not in ("auto", "cg"):
            raise ValueError(f"solver is {solver!r}, but several layers have no Hessian to factor: use 'auto' or 'cg'")
        return CgInverse(self.point(objective, theta).product(), damping=0.0, tol=1e-3)

    def influence(self, objective: TrainingObjective, theta: Tensor, bias: Bias, inverse: InverseHessian) -> Influence:
        """Take one solve, and one pass in forward mode for the slopes of all samples."""

        def measured(theta: Tensor) -> Tensor:
            return bias.of_logits(self.logits(theta, bias.x))

        solved = inverse(_gradient(measured, theta))
        slopes = _slope(lambda t: self.losses(t, objective.x, objective.y), theta, solved)
        return Influence(bias=float(measured(theta)), values=-slopes.detach(), weight=_weight(objective))


class LayersAround:
    """The loss of several layers with a penalty around one θ₀."""

    def __init__(self, layers: Layers, objective: TrainingObjective) -> None:
        self.tol = layers.tol
        self._layers, self._objective = layers, objective
        centre = objective.centre
        assert centre is not None
        start = torch.randn(centre.shape, generator=torch.Generator().manual_seed(0)).to(centre)
        product = layers.point(replace(objective, l2=0.0), centre).bound()
        self.curvature = newton.largest_eigenvalue(product, start)

    def minimise(self, l2: float, theta: Tensor, *, max_iter: int) -> Minimum:
        return self._layers.minimise(replace(self._objective, l2=l2), theta, max_iter=max_iter)


class LayersPoint:
    """The training objective of `Layers` at one θ, with the Gauss–Newton matrix in place of the Hessian."""

    def __init__(self, layers: Layers, objective: TrainingObjective, theta: Tensor) -> None:
        self._layers, self._objective, self.theta = layers, objective, theta
        self.value = float(self._value(theta))

    @cached_property
    def gradient(self) -> Tensor:
        """∇f `[p]`"""
        return _gradient(self._value, self.theta)

    def product(self) -> LinearMap:
        """Return v ↦ (Jᵀ H_z J + λ) v, at the cost of about three passes for each v."""
        p = self._layers.logits(self.theta, self._objective.x).softmax(1)
        return self._curved(lambda q: p * (q - (p * q).sum(1, keepdim=True)))

    def bound(self) -> LinearMap:
        """Return v ↦ (½ Jᵀ J + λ) v: no H_z has an eigenvalue above ½, whatever the logits are."""
        return self._curved(lambda q: q / 2)

    def _curved(self, curve: LinearMap) -> LinearMap:
        """Return v ↦ (Jᵀ C J + λ) v for a map C of `[n, K]`."""
        objective, theta = self._objective, self.theta

        def logits(theta: Tensor) -> Tensor:
            return self._layers.logits(theta, objective.x)

        pull_back, weight = torch.func.vjp(logits, theta)[1], _weight(objective)[:, None]

        def times(v: Tensor) -> Tensor:
            pulled: Tensor = pull_back(weight * curve(_slope(logits, theta, v)))[0]
            return (pulled + objective.l2 * v).detach()

        return times

    def at(self, theta: Tensor) -> "LayersPoint":
        """Return the same objective elsewhere."""
        return LayersPoint(self._layers, self._objective, theta)

    def _value(self, theta: Tensor) -> Tensor:
        objective = self._objective
        gap = theta if objective.centre is None else theta - objective.centre
        return (
            _weight(objective) @ self._layers.losses(theta, objective.x, objective.y)
            + objective.l2 / 2 * gap.square().sum()
        )


def _gradient(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    gradient: Tensor = torch.func.grad(function)(theta)
    return gradient.detach()


def _slope(function: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of a tensor-valued function along a direction, in forward mode."""
    with warnings.catch_warnings():
        # Forward mode compiles its formulas when first used, with an interface that torch itself has deprecated.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.jit.script")
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.script")
        slope: Tensor = torch.func.jvp(function, (theta,), (direction,))[1]
        return slope


def _weight(objective: TrainingObjective) -> Tensor:
    weight = (
        torch.ones(len(objective.y), device=objective.x.device)
        if objective.weight is None
        else objective.weight.float()
    )
    return weight / weight.sum()
