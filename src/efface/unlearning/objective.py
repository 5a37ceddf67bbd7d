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
    l2: float
    """λ > 0"""
    centre: Tensor | None = None
    """θ₀; zero if None."""


class Trainable(Protocol):
    """Parameters θ with a training objective."""

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return `[m, K]`."""
        ...

    def minimise(self, objective: TrainingObjective, theta: Tensor, *, max_iter: int) -> Minimum:
        """Minimise by damped Newton steps with backtracking from θ: no step raises the objective."""
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
