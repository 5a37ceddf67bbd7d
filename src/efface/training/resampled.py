"""Empirical risk minimisation on groups drawn equally often."""

from dataclasses import dataclass

import torch
from torch import Tensor

from efface.data.base import Dataset
from efface.data.groups import group_weights
from efface.training.erm import Erm


def balanced_order(dataset: Dataset, generator: torch.Generator) -> Tensor:
    """As many rows as train has, drawn with replacement, every group equally often on average.

    Raises:
        ValueError: a group is empty.
    """
    train = dataset.train
    weight = group_weights(train.y, train.a, len(dataset.classes), len(dataset.attributes))
    return torch.multinomial(weight, len(train), replacement=True, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Resampled(Erm):
    """Every step draws a group at random and then a sample of it: the "resampling" baseline of group DRO."""

    def order(self, dataset: Dataset, generator: torch.Generator) -> Tensor:
        """See `balanced_order`."""
        return balanced_order(dataset, generator)
