"""Multi-layer perceptron."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from torch import nn

from efface.models.base import Model
from efface.options import Ge, Le, Len, checked


@checked
def mlp(
    *,
    input_shape: tuple[int, ...],
    n_classes: int,
    hidden: Annotated[Sequence[Annotated[int, Ge(1), Le(65_536)]], Len(1)] = (100, 100, 100),
    head_bias: bool = True,
) -> Model:
    """Build linear layers with ReLU between them; the features are those of the last hidden one.

    With the default widths, on Colored MNIST, the 2352-100-100-100 network of the Fast Model Debias paper; its code
    has a head without bias (`head_bias=False`). Without a hidden layer it is `linear`.

    Args:
        input_shape: of any kind; inputs are flattened.
        n_classes: logits of the head.
        hidden: width of each hidden layer.
        head_bias: give the head an intercept.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for d_in, d_out in pairwise([math.prod(input_shape), *hidden]):
        layers += [nn.Linear(d_in, d_out), nn.ReLU()]
    return Model(nn.Sequential(*layers), nn.Linear(hidden[-1], n_classes, bias=head_bias))
