"""Empirical risk minimisation under weights that undo the bias of train."""

from dataclasses import dataclass
from typing import Literal

from efface.data.base import Dataset
from efface.data.groups import group_weights, kamiran_calders
from efface.training.erm import CrossEntropy, Erm


@dataclass(frozen=True, kw_only=True)
class Reweighted(Erm):
    """The mean cross-entropy of train, each sample times a fixed weight.

    Args:
        weights: `kamiran_calders`, which make the attribute independent of the label (AIF360's `Reweighing`), or
            `groups`, under which all groups count the same.

    Raises:
        ValueError: in `fit`, where a group that the weights need is empty.
    """

    weights: Literal["kamiran_calders", "groups"] = "kamiran_calders"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in ("kamiran_calders", "groups"):
            raise ValueError(f"weights is {self.weights!r}, but must be 'kamiran_calders' or 'groups'")

    def objective(self, dataset: Dataset, device: str) -> CrossEntropy:
        """The weighted cross-entropy."""
        weigh = kamiran_calders if self.weights == "kamiran_calders" else group_weights
        train = dataset.train
        weight = weigh(train.y, train.a, len(dataset.classes), len(dataset.attributes))
        return CrossEntropy(train.y, weight, device)
