"""Empirical risk minimisation on groups drawn equally often."""

import torch
from torch import Tensor

from efface.data.base import Dataset
from efface.data.groups import group_weights
from efface.options import options
from efface.training.erm import Erm, Selection


def balanced_order(dataset: Dataset, generator: torch.Generator) -> Tensor:
    """Draw as many rows as train has, with replacement, every group equally often on average.

    Raises:
        ValueError: a group is empty.
    """
    train = dataset.train
    weight = group_weights(train.y, train.a, len(dataset.classes), len(dataset.attributes))
    return torch.multinomial(weight, len(train), replacement=True, generator=generator)


@options
class Resampled(Erm):
    """Draw a group at random, then a sample of it: the "resampling" baseline of the group DRO paper."""

    select: Selection = "worst_group_accuracy"

    def order(self, dataset: Dataset, generator: torch.Generator) -> Tensor:
        """See `balanced_order`."""
        return balanced_order(dataset, generator)
