"""The head converged on train: what unlearning starts from, and what must not be credited to it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from efface.debiased import Debiased
from efface.methods.fmd import law_of
from efface.problem import Problem
from efface.representations import Representation
from efface.unlearning.head import Head, head_of, head_parameters


@dataclass(frozen=True, kw_only=True)
class Converge:
    """Finishes the training of the head: the minimum of the mean cross-entropy on train + λ/2 ‖θ‖².

    Args:
        damping: λ in units of the mean square of a feature, as in `Fmd`.
        steps: Newton steps at most.
    """

    damping: float = 1e-4
    steps: int = 100

    uses_attribute_at_test: ClassVar[bool] = False
    small: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.damping <= 0 or self.steps < 1:
            raise ValueError(f"damping is {self.damping} and steps {self.steps}, but both must be positive")

    def skip(self, problem: Problem) -> str | None:
        return None

    def fit(self, problem: Problem) -> Debiased:
        bias = problem.head.bias is not None
        trainable = Head(n_classes=problem.n_classes, bias=bias)
        found = trainable.minimise(law_of(problem, self.damping), head_parameters(problem.head), max_iter=self.steps)
        info = {"steps": found.iterations, "converged": found.converged, "grad_norm": found.grad_norm}
        return Debiased(represent=Representation(), head=head_of(found.theta, bias=bias), info=info)
