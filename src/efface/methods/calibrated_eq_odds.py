"""AIF360's `CalibratedEqOddsPostprocessing`: the score of one group is withheld for a share of its members."""

from typing import Any, ClassVar, Literal

import numpy as np

from efface.debiased import Debiased
from efface.decisions import CERTAIN
from efface.methods.base import Method, NotApplicable
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

_PRIVILEGED, _UNPRIVILEGED = [{"a": 1.0}], [{"a": 0.0}]


@options
class CalibratedEqOdds(Method):
    """Equalise a cost of errors on val, and leave scores calibrated: for a share of a group the base rate is the score.

    Pleiss et al., "On fairness and calibration", NeurIPS 2017, as AIF360 implements it. The base model stays as it is.
    Whose score is withheld is drawn, by the attribute, which has to be known of whoever is decided on.

    Args:
        cost: `fnr` or `fpr`, generalised rates of false negatives and positives, or `weighted`, the sum of both.
    """

    cost: Literal["fnr", "fpr", "weighted"] = "weighted"

    uses_attribute_at_test: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_fairness("calibrated_eq_odds")

    def training_data(self, problem: Problem) -> Features:
        require_two_classes(problem)
        if problem.n_attributes != 2:
            raise NotApplicable(f"it is defined for an attribute of 2 values, and this one has {problem.n_attributes}")
        require_every_group(problem.val, problem, "val")
        return problem.val

    def fit(self, problem: Problem) -> Debiased:
        data = self.training_data(problem)
        with quietly():
            from aif360.algorithms.postprocessing import CalibratedEqOddsPostprocessing

            processing = CalibratedEqOddsPostprocessing(
                unprivileged_groups=_UNPRIVILEGED,
                privileged_groups=_PRIVILEGED,
                cost_constraint=self.cost,
                seed=problem.seed,
            )
            true = _dataset(data)
            predicted = true.copy()
            predicted.scores = scores(problem, data)[:, None]
            predicted.labels = (predicted.scores >= 0.5).astype(np.float64)
            processing.fit(true, predicted)
        withheld = [float(processing.unpriv_mix_rate), float(processing.priv_mix_rate)]
        base_rates = [float(processing.base_rate_unpriv), float(processing.base_rate_priv)]
        if not np.isfinite(withheld).all():
            raise NotApplicable("no share equalises the costs: the base model's scores cost as much as the base rates")
        # AIF360 compares a number in [0, 1) with the share, so that one beyond these ends counts as the end.
        share = np.clip(withheld, 0, 1)
        rules = np.zeros((3, 2, 2))
        rules[0] = np.stack([1 - share, share], 1)
        rules[1, :, 0] = 1
        rules[2, :, 1] = [log_odds(rate, CERTAIN) for rate in base_rates]
        info = {"withheld": share.tolist(), "base_rates": base_rates, "fitted_on_split": "val"}
        return drawn(problem, rules, head=problem.head, info=info)


def _dataset(data: Features) -> Any:
    """Return labels and attributes as AIF360 takes them."""
    import pandas as pd
    from aif360.datasets import BinaryLabelDataset

    y, a = labels_and_attributes(data)
    frame = pd.DataFrame({"a": a.astype(np.float64), "y": y.astype(np.float64)})
    return BinaryLabelDataset(df=frame, label_names=["y"], protected_attribute_names=["a"])
