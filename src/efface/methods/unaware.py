"""The model that is not told the attribute: its columns dropped, and the head trained without them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from efface.debiased import Debiased
from efface.methods.heads import refit_head
from efface.problem import Problem
from efface.representations import WithoutColumns


@dataclass(frozen=True, kw_only=True)
class Unaware:
    """Fairness through unawareness: the attribute's columns are dropped, and a converged head is fitted on the others.

    Flipping the attribute changes no prediction then, so that `counterfactual_bias` is 0; what goes with the attribute
    is all there, and a probe reads the attribute from it.

    Args:
        l2: penalty λ/2 ‖W‖² of the head, on features in units of their standard deviation.
    """

    l2: float = 1e-4

    uses_attribute_at_test: ClassVar[bool] = False
    small: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.l2 <= 0:
            raise ValueError(f"l2 is {self.l2}, but must be positive, so that the head has a minimum")

    def skip(self, problem: Problem) -> str | None:
        if problem.attribute_columns is None:
            return "the data set does not say which columns of its inputs are the attribute"
        if not problem.features_are_inputs:
            return "the features are not the columns of the inputs, but mixtures of them: use model=linear"
        return None

    def fit(self, problem: Problem) -> Debiased:
        train, columns = problem.train, problem.attribute_columns
        assert columns is not None  # see skip
        dropped = torch.zeros(train.x.shape[1], dtype=torch.bool, device=train.x.device)
        dropped[list(columns)] = True
        represent = WithoutColumns(dropped=dropped, constant=train.x.mean(0))
        head, converged = refit_head(represent(train.x), train, n_classes=problem.n_classes, l2=self.l2)
        info = {"dropped_columns": len(columns), "refit_converged": converged}
        return Debiased(represent=represent, head=head, fitted_on=train, info=info)
