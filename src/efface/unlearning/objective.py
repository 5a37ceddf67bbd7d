"""What unlearning minimises, and what it re-trains: the contract of a head and of several layers."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from efface.newton import Minimum as Minimum
from efface.unlearning.bias import Bias
from efface.unlearning.influence import Influence
from efface.unlearning.inverse import InverseHessian, InverseSolver


@dataclass(frozen=True, kw_only=True)
class TrainingObjective:
    """A training objective: Σ_i w_i ℓ_i / Σ_i w_i + λ/2 ‖θ − θ₀‖², over all parameters, intercepts included."""

    x: Tensor
    """`[n, d]`"""
    y: Tensor
    weight: Tensor | None = None
    l2: float = 0.0
    """λ; positive, unless nothing but the loss is used."""
    centre: Tensor | None = None
    """θ₀; zero if None."""


class Around(Protocol):
    """A loss with the penalty λ/2 ‖θ − θ₀‖² around one θ₀, to be minimised under several λ."""

    tol: float
    """A minimum has no larger entry in its gradient."""
    curvature: float
    """The largest eigenvalue that the loss's Hessian can have at θ₀: the unit of λ."""

    def minimise(self, l2: float, theta: Tensor, *, max_iter: int) -> Minimum:
        """Minimise under λ = `l2` from θ, as `Trainable.minimise` does."""
        ...


class Trainable(Protocol):
    """Parameters θ with a training objective."""

    def entrance(self, theta: Tensor, d: int) -> tuple[Tensor, Tensor | None]:
        """Return the layer that the `d` features enter, `[k, d]` and its intercept `[k]` or None, as views of θ."""
        ...

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return `[m, K]`."""
        ...

    def minimise(self, objective: TrainingObjective, theta: Tensor, *, max_iter: int) -> Minimum:
        """Minimise by damped Newton steps with backtracking from θ: no step raises the objective."""
        ...

    def around(self, objective: TrainingObjective, centre: Tensor) -> Around:
        """Return the objective's loss with a penalty around `centre`, whatever the objective's own penalty is."""
        ...

    def gradient_sum(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return Σ_i ∇ℓ_i, of θ's shape."""
        ...

    def inverse(self, objective: TrainingObjective, theta: Tensor, solver: InverseSolver, seed: int) -> InverseHessian:
        """Return the inverse of the objective's Hessian at θ, its penalty included."""
        ...

    def influence(self, objective: TrainingObjective, theta: Tensor, bias: Bias, inverse: InverseHessian) -> Influence:
        """Return the influence of each training sample on `bias`."""
        ...
