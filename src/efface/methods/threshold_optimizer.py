"""fairlearn's `ThresholdOptimizer`: thresholds of the base model's score for each value of the attribute."""

from typing import Any, ClassVar, Literal

import numpy as np

from efface.debiased import Debiased
from efface.decisions import CERTAIN
from efface.methods.base import Method
from efface.methods.wrapping import (
    drawn,
    labels_and_attributes,
    log_odds,
    quietly,
    require_every_group,
    require_fairness,
    require_two_classes,
    scores,
)
from efface.options import options
from efface.problem import Features, Problem

_MOST = 700.0
"""Log odds of a threshold that no score lies beyond: of 0, of 1, and of infinity."""


@options
class ThresholdOptimizer(Method):
    """Choose thresholds of the base model's score on val, between two of which each decision is drawn.

    Hardt, Price & Srebro, "Equality of opportunity in supervised learning", NeurIPS 2016, as fairlearn implements it.
    The base model stays as it is. The thresholds depend on the attribute, which has to be known of whoever is decided
    on.

    Args:
        constraint: which rates are to be equal for all values of the attribute.
        objective: what is as high as it can be under that constraint.
    """

    constraint: Literal[
        "demographic_parity",
        "equalized_odds",
        "true_positive_rate_parity",
        "false_positive_rate_parity",
        "true_negative_rate_parity",
        "false_negative_rate_parity",
    ] = "demographic_parity"
    objective: Literal["accuracy_score", "balanced_accuracy_score"] = "accuracy_score"

    uses_attribute_at_test: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_fairness("threshold_optimizer")

    def training_data(self, problem: Problem) -> Features:
        require_two_classes(problem)
        require_every_group(problem.val, problem, "val")
        return problem.val

    def fit(self, problem: Problem) -> Debiased:
        data = self.training_data(problem)
        y, a = labels_and_attributes(data)
        with quietly():
            from fairlearn.postprocessing import ThresholdOptimizer as Wrapped

            optimizer = Wrapped(
                estimator=_estimator(),
                constraints=self.constraint,
                objective=self.objective,
                prefit=True,
                predict_method="predict",
            )
            optimizer.fit(scores(problem, data)[:, None], y, sensitive_features=a)
        chosen = optimizer.interpolated_thresholder_.interpolation_dict
        rules = np.stack([_rules(chosen[value]) for value in range(problem.n_attributes)], axis=1)
        thresholds = {str(value): _words(rules[:, value]) for value in range(problem.n_attributes)}
        return drawn(problem, rules, head=problem.head, info={"rules": thresholds, "fitted_on_split": "val"})


def _estimator() -> Any:
    """Return a fitted model of scikit-learn that predicts the score that it is handed."""
    from sklearn.base import BaseEstimator, RegressorMixin

    class Score(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        def fit(self, x: np.ndarray, y: np.ndarray) -> "Score":
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            return np.asarray(x)[:, 0]

        def __sklearn_is_fitted__(self) -> bool:
            return True

    return Score()


def _rules(chosen: Any) -> np.ndarray:
    """Return the rules of one value of the attribute, `[3, 4]`: two thresholds, always 0, always 1.

    Args:
        chosen: fairlearn's probabilities and operations.
    """
    ignored, constant = chosen.get("p_ignore", 0.0), chosen.get("prediction_constant", 0.0)
    probability = [(1 - ignored) * chosen.p0, (1 - ignored) * chosen.p1, ignored * (1 - constant), ignored * constant]
    slope, offset = [], []
    for operation in (chosen.operation0, chosen.operation1):
        sign = 1.0 if operation.operator == ">" else -1.0
        slope.append(sign)
        offset.append(-sign * log_odds(operation.threshold, _MOST))
    return np.array([probability, [*slope, 0.0, 0.0], [*offset, -CERTAIN, CERTAIN]])


def _words(rules: np.ndarray) -> list[dict[str, float]]:
    """Return the rules that can be drawn, for the record."""
    names = ("probability", "slope", "offset")
    return [dict(zip(names, map(float, rule), strict=True)) for rule in rules.T if rule[0] > 0]
