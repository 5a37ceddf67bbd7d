"""Multi-layer perceptron."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from efface.models.base import Model


def mlp(
    *, input_shape: tuple[int, ...], n_classes: int, hidden: Sequence[int] = (100, 100, 100), head_bias: bool = True
) -> Model:
    """Build linear layers with ReLU; the features are the outputs of the last hidden one.

    With the default widths, on Colored MNIST, the 2352-100-100-100 network of the Fast Model Debias paper; its code
    has a head without bias (`head_bias=False`).
    """
    if len(hidden) == 0 or min(hidden) < 1:
        raise ValueError(f"hidden is {list(hidden)}, but must name the width of one or more layers: see model=linear")
    layers: list[nn.Module] = [nn.Flatten()]
    for d_in, d_out in pairwise([math.prod(input_shape), *hidden]):
        layers += [nn.Linear(d_in, d_out), nn.ReLU()]
    return Model(nn.Sequential(*layers), nn.Linear(hidden[-1], n_classes, bias=head_bias))
