"""Empirical risk minimisation under weights that undo the bias of train."""

from typing import Literal

from efface.data.base import Dataset
from efface.data.groups import group_weights, kamiran_calders
from efface.options import options
from efface.training.erm import Erm
from efface.training.learner import CrossEntropy


@options
class Reweighted(Erm):
    """Minimise the mean cross-entropy on train, each sample times a fixed weight.

    Args:
        weights: `kamiran_calders`, which make the attribute independent of the label (AIF360's `Reweighing`), or
            `groups`, under which all groups count the same.

    Raises:
        ValueError: in `fit`, where a group that the weights need is empty.
    """

    weights: Literal["kamiran_calders", "groups"] = "kamiran_calders"

    def objective(self, dataset: Dataset, device: str) -> CrossEntropy:
        """Return the weighted cross-entropy."""
        weigh = kamiran_calders if self.weights == "kamiran_calders" else group_weights
        train = dataset.train
        weight = weigh(train.y, train.a, len(dataset.classes), len(dataset.attributes))
        return CrossEntropy(train.y, weight, device)
