"""fairlearn's `ExponentiatedGradient`: a draw among logistic regressions that meets a constraint on the rates."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch

from efface.debiased import Debiased
from efface.decisions import CERTAIN
from efface.methods.base import Method
from efface.methods.retraining import Units
from efface.methods.wrapping import (
    drawn,
    labels_and_attributes,
    quietly,
    require_every_group,
    require_fairness,
    require_two_classes,
)
from efface.options import Ge, Gt, Le, options
from efface.problem import Features, Problem
from efface.unlearning.head import head_of

_CONSTRAINTS = {
    "demographic_parity": "DemographicParity",
    "equalized_odds": "EqualizedOdds",
    "true_positive_rate_parity": "TruePositiveRateParity",
    "false_positive_rate_parity": "FalsePositiveRateParity",
    "error_rate_parity": "ErrorRateParity",
}
"""The option, and fairlearn's class."""
_ITERATIONS = 1000


@options
class ExponentiatedGradient(Method):
    """Fit logistic regressions on re-weighted samples of train, of which one is drawn for each prediction.

    Agarwal et al., "A reductions approach to fair classification", ICML 2018, as fairlearn implements it. The rates
    are those of train, and hold for the draw, and not for any one of the regressions.

    Args:
        constraint: which rates are to be equal for all values of the attribute.
        bound: how far they may differ.
        max_iter: the largest number of regressions.
        l2: penalty λ/2 ‖W‖² of each, on features in units of their standard deviation.
    """

    constraint: Literal[
        "demographic_parity",
        "equalized_odds",
        "true_positive_rate_parity",
        "false_positive_rate_parity",
        "error_rate_parity",
    ] = "demographic_parity"
    bound: Annotated[float, Gt(0), Le(1)] = 0.01
    max_iter: Annotated[int, Ge(1)] = 50
    l2: Annotated[float, Gt(0)] = 1e-4

    small: ClassVar[dict[str, Any]] = {"max_iter": 5}

    def __post_init__(self) -> None:
        require_fairness("exponentiated_gradient")

    def training_data(self, problem: Problem) -> Features:
        require_two_classes(problem)
        require_every_group(problem.train, problem, "train")
        return problem.train

    def fit(self, problem: Problem) -> Debiased:
        data = self.training_data(problem)
        units = Units.of(data.x.double())
        y, a = labels_and_attributes(data)
        with quietly():
            import fairlearn.reductions
            from sklearn.linear_model import LogisticRegression

            regression = LogisticRegression(C=1 / (self.l2 * len(y)), max_iter=_ITERATIONS)
            constraint = getattr(fairlearn.reductions, _CONSTRAINTS[self.constraint])(difference_bound=self.bound)
            reduction = fairlearn.reductions.ExponentiatedGradient(
                regression, constraint, eps=self.bound, max_iter=self.max_iter
            )
            reduction.fit(units(data.x.double()).cpu().numpy(), y, sensitive_features=a)
        chosen = [i for i, weight in reduction.weights_.sort_index().items() if weight > 0]
        heads = torch.stack([_log_odds(reduction.predictors_[i], units) for i in chosen])
        rules = np.ones((3, 1, len(chosen)))
        rules[0], rules[2] = reduction.weights_[chosen], 0
        info = {"regressions": len(chosen), "fitted": len(reduction.predictors_), "gap": float(reduction.best_gap_)}
        head = head_of(torch.stack([-heads, heads], 1).flatten(0, 1) / 2)
        return drawn(problem, rules, head=head, column=np.arange(len(chosen)), fitted_on=data, info=info)


def _log_odds(model: Any, units: Units) -> torch.Tensor:
    """Return weights and intercept `[d + 1]` of a regression, for features as they are, on x's device.

    Where all samples had one label after their weights, fairlearn has a constant in its place.
    """
    mean = units.mean
    if not hasattr(model, "coef_"):
        sign = 1.0 if int(model.constant) == 1 else -1.0
        return torch.cat([torch.zeros_like(mean), mean.new_full((1,), sign * CERTAIN)])
    weight, bias = (torch.from_numpy(part.copy()).to(mean) for part in (model.coef_, model.intercept_))
    units.undo(weight, bias)
    return torch.cat([weight[0], bias])
