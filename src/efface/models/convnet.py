"""A small convolutional network, for digits."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from efface.models.base import Model


def convnet(
    *,
    input_shape: tuple[int, ...],
    n_classes: int,
    channels: Sequence[int] = (32, 64, 128),
    kernel_size: int = 3,
    pool: int = 2,
) -> Model:
    """Build convolutions with batch norm, ReLU and max-pooling; the features are the means of the last channels.

    With channels [16, 32, 64, 128], kernel_size 7 and pool 1, the network of Bahng et al., "Learning de-biased
    representations with biased representations", ICML 2020, which computes about a hundred times as much.

    Args:
        input_shape: (channels, height, width).
        n_classes: number of logits.
        channels: number of channels of each layer.
        kernel_size: side of the kernels, odd.
        pool: side of the max-pooling after each layer; 1 for none.
    """
    if len(input_shape) != 3:
        raise ValueError(f"inputs have shape {input_shape}, but model=convnet takes images (channels, height, width)")
    if len(channels) == 0 or min(channels) < 1:
        raise ValueError(f"channels is {list(channels)}, but must name the width of one or more layers")
    if kernel_size < 1 or kernel_size % 2 == 0 or pool < 1:
        raise ValueError(f"kernel_size={kernel_size}, pool={pool}: kernel_size must be odd, pool at least 1")
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
