"""The last layers of a network, re-trained together and matrix-free, through `torch.func`.

The objective is not convex. The Hessian is replaced by the Gauss–Newton matrix Jᵀ H_z J, with J the Jacobian of the
logits and H_z the Hessian of the loss with respect to them: positive semi-definite, and the Hessian itself where the
logits are linear in θ (Martens, "New insights and perspectives on the natural gradient method", JMLR 2020).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.softmax import conjugate_gradients
from efface.unlearning.bias import Bias
from efface.unlearning.influence import Influence
from efface.unlearning.inverse import CgInverse, InverseHessian, InverseSolver
from efface.unlearning.objective import Minimum, TrainingObjective

_CG_STEPS = 30
"""Products per step of a minimisation, which needs no exact solution."""


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
        """θ of the module as it is."""
        return torch.cat([t.detach().float().flatten() for t in self.module.parameters()])

    def tensors(self, theta: Tensor) -> dict[str, Tensor]:
        """θ as the module's named parameters."""
        named, at = {}, 0
        for name, t in self.module.named_parameters():
            named[name] = theta[at : at + t.numel()].view_as(t)
            at += t.numel()
        return named

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.module, self.tensors(theta), (x.to(theta),))  # type: ignore[no-any-return]

    def _losses(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(theta, x), y, reduction="none")

    def _value(self, law: TrainingObjective, theta: Tensor) -> Tensor:
        gap = theta if law.centre is None else theta - law.centre
        return _weight(law) @ self._losses(theta, law.x, law.y) + law.l2 / 2 * gap.square().sum()

    def _product(self, law: TrainingObjective, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """v ↦ (Jᵀ H_z J + λ) v, at the cost of about three passes."""
        logits, pull_back = torch.func.vjp(lambda t: self.logits(t, law.x), theta)[:2]
        p, weight = logits.softmax(1), _weight(law)[:, None]

        def product(v: Tensor) -> Tensor:
            q = _slope(lambda t: self.logits(t, law.x), theta, v)
            pulled: Tensor = pull_back(weight * p * (q - (p * q).sum(1, keepdim=True)))[0]
            return pulled + law.l2 * v

        return product

    def minimise(self, law: TrainingObjective, theta: Tensor, *, max_iter: int) -> Minimum:
        """Gauss–Newton steps by conjugate gradients, halved until the objective falls, towards a local minimum.

        A step that had to be halved makes the next one more cautious (Levenberg, Marquardt).
        """
        value = float(self._value(law, theta))
        iterations, caution = 0, 0.0
        while True:
            gradient = _gradient(lambda t: self._value(law, t), theta)
            grad_norm = float(gradient.abs().max())
            if grad_norm <= self.tol or iterations == max_iter:
                break
            product, extra = self._product(law, theta), caution
            step = conjugate_gradients(
                lambda v: product(v) + extra * v,  # noqa: B023
                gradient, precondition=lambda r: r, tol=0.1, max_iter=_CG_STEPS,
            ).solution.detach()  # fmt: skip
            slope, t, fell = float((gradient * step).sum()), 1.0, False
            while t > 1e-6 and not fell:
                new_value = float(self._value(law, theta - t * step))
                fell = new_value <= value - 1e-4 * t * slope
                t = t if fell else t / 2
            if not fell:  # no decrease is left that float32 can see
                break
            caution = caution / 4 if t == 1 else max(4 * caution, law.l2)
            theta, value = theta - t * step, new_value
            iterations += 1
        return Minimum(theta=theta, iterations=iterations, grad_norm=grad_norm, converged=grad_norm <= self.tol)

    def gradient_sum(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if len(y) == 0:
            return torch.zeros_like(theta)
        return _gradient(lambda t: self._losses(t, x, y).sum(), theta)

    def inverse(self, law: TrainingObjective, theta: Tensor, solver: InverseSolver, seed: int) -> InverseHessian:
        """Of the Gauss–Newton matrix, by conjugate gradients whatever the solver: there is no matrix to factor."""
        if solver not in ("auto", "cg"):
            raise ValueError(f"solver is {solver!r}, but several layers have no Hessian to factor: use 'auto' or 'cg'")
        return CgInverse(self._product(law, theta), damping=0.0, tol=1e-3)

    def influence(self, law: TrainingObjective, theta: Tensor, bias: Bias, inverse: InverseHessian) -> Influence:
        """One solve, and one pass in forward mode for the slopes of all samples."""

        def of(theta: Tensor) -> Tensor:
            return bias.of_logits(self.logits(theta, bias.x))

        solved = inverse(_gradient(of, theta))
        slopes = _slope(lambda t: self._losses(t, law.x, law.y), theta, solved)
        return Influence(bias=float(of(theta)), values=-slopes.detach(), weight=_weight(law))


def _gradient(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    gradient: Tensor = torch.func.grad(function)(theta)
    return gradient.detach()


def _slope(function: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor) -> Tensor:
    """Derivative of a tensor-valued function along a direction, in forward mode."""
    with warnings.catch_warnings():
        # Forward mode compiles its formulas when first used, with an interface that torch itself has deprecated.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.jit.script")
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.script")
        slope: Tensor = torch.func.jvp(function, (theta,), (direction,))[1]
        return slope


def _weight(law: TrainingObjective) -> Tensor:
    weight = torch.ones(len(law.y), device=law.x.device) if law.weight is None else law.weight.float()
    return weight / weight.sum()
