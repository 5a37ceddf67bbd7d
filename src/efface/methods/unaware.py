"""The model that is not told the attribute: its columns dropped, and the head trained without them."""

from typing import Annotated

import torch

from efface.debiased import Debiased
from efface.methods.base import Method, NotApplicable
from efface.methods.heads import refit_head
from efface.options import Gt, options
from efface.problem import Features, Problem
from efface.representations import WithoutColumns


@options
class Unaware(Method):
    """Fairness through unawareness: drop the attribute's columns, and fit a converged head on the others.

    Flipping the attribute then changes no prediction, so that `counterfactual_bias` is 0. This does *not* hide the
    attribute: the columns that correlate with it stay, and a probe reads it from them.

    Args:
        l2: penalty λ/2 ‖W‖² of the head, on features in units of their standard deviation. It must be positive, so
            that the head has a minimum.
    """

    l2: Annotated[float, Gt(0)] = 1e-4

    def training_data(self, problem: Problem) -> Features:
        _attribute_columns(problem)
        return problem.train

    def fit(self, problem: Problem) -> Debiased:
        train, columns = problem.train, _attribute_columns(problem)
        dropped = torch.zeros(train.x.shape[1], dtype=torch.bool, device=train.x.device)
        dropped[columns] = True
        represent = WithoutColumns(dropped=dropped, constant=train.x.mean(0))
        head, converged = refit_head(represent(train.x), train, n_classes=problem.n_classes, l2=self.l2)
        info = {"dropped_columns": len(columns), "refit_converged": converged}
        return Debiased(represent=represent, head=head, fitted_on=train, info=info)


def _attribute_columns(problem: Problem) -> list[int]:
    """Return the columns of the features that are the attribute itself. NotApplicable if they are not known."""
    if problem.attribute_columns is None:
        raise NotApplicable(
            "the data set does not say which columns of its inputs are the attribute; dataset=features can, with "
            "dataset.attribute_columns=[...]"
        )
    if not problem.features_are_inputs:
        raise NotApplicable("the features are not the columns of the inputs, but mixtures of them: use model=linear")
    return list(problem.attribute_columns)
