"""Softmax regression on the inputs themselves."""

import math

from torch import nn

from efface.models.base import Model


def linear(*, input_shape: tuple[int, ...], n_classes: int) -> Model:
    """Build a head on the flattened inputs themselves: methods then work on pixels or table columns."""
    return Model(nn.Flatten(), nn.Linear(math.prod(input_shape), n_classes))
