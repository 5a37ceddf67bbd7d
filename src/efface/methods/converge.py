"""The head converged on train: what unlearning starts from, and what must not be credited to it."""

from typing import Annotated

from efface.debiased import Debiased
from efface.methods.base import Method
from efface.methods.retraining import part_of, training_objective
from efface.options import Ge, Gt, options
from efface.problem import Problem


@options
class Converge(Method):
    """Finish the training of the head: go to the minimum of the mean cross-entropy on train + λ/2 ‖θ‖².

    Args:
        damping: λ in units of the mean square of a feature, as in `FmdBase`.
        steps: Newton steps at most.
    """

    damping: Annotated[float, Gt(0)] = 1e-4
    steps: Annotated[int, Ge(1)] = 100

    def fit(self, problem: Problem) -> Debiased:
        part = part_of(problem, 1)
        objective = training_objective(problem, self.damping)
        minimum = part.trainable.minimise(objective, part.theta, max_iter=self.steps)
        represent, head = part.model(minimum.theta)
        info = {"steps": minimum.iterations, "converged": minimum.converged, "grad_norm": minimum.grad_norm}
        return Debiased(represent=represent, head=head, info=info)
