"""A small convolutional network, for digits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from torch import nn

from efface.models.base import Model
from efface.options import Ge, Le, Len, checked


@checked
def convnet(
    *,
    input_shape: tuple[int, ...],
    n_classes: int,
    channels: Annotated[Sequence[Annotated[int, Ge(1), Le(8192)]], Len(1)] = (32, 64, 128),
    kernel_size: Annotated[int, Ge(1)] = 3,
    pool: Annotated[int, Ge(1)] = 2,
) -> Model:
    """Build convolutions with batch norm, ReLU and max-pooling; the features are the means of the last channels.

    With channels [16, 32, 64, 128], kernel_size 7 and pool 1, the network of Bahng et al., "Learning de-biased
    representations with biased representations", ICML 2020, which computes about a hundred times as much.

    Args:
        input_shape: (channels, height, width).
        n_classes: logits of the head.
        channels: how many each layer has.
        kernel_size: side of the convolutions, odd.
        pool: side of the max-pooling after each layer; 1 for none.
    """
    if len(input_shape) != 3:
        raise ValueError(f"inputs have shape {input_shape}, but model=convnet takes images (channels, height, width)")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}, but must be odd, so that images keep their size")
    if min(input_shape[1:]) < pool ** len(channels):
        raise ValueError(f"pool={pool}: images of {input_shape[1:]} pixels are too small for {len(channels)} layers")
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise([input_shape[0], *channels]):
        layers += [
            nn.Conv2d(d_in, d_out, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(d_out),
            nn.ReLU(),
        ]
        layers += [nn.MaxPool2d(pool)] if pool > 1 else []
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Model(backbone, nn.Linear(channels[-1], n_classes)).to(memory_format=torch.channels_last)
