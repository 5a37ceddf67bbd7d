"""Cut and mirror images at random."""

import math

import torch
from torch import Tensor
from torch.nn import functional

AREA, ASPECT = (0.7, 1.0), (1.0, 4 / 3)
"""Share of the image that a cut keeps, and its width over its height: those of group DRO's code for CelebA."""
_TRIES = 10


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Cut each image of x `[n, c, h, w]` out at random, stretch it to the full size, and mirror every other one.

    torchvision's `RandomResizedCrop` and `RandomHorizontalFlip` with group DRO's numbers, but of images that have their
    final size, where group DRO cuts the original photographs.
    """
    n, (h, w) = len(x), x.shape[2:]
    area = torch.empty(_TRIES, n).uniform_(*AREA, generator=generator)
    aspect = torch.empty(_TRIES, n).uniform_(*map(math.log, ASPECT), generator=generator).exp_()
    # Height and width of a cut as shares of the image's; the first try that fits inside, else the whole image.
    tall, wide = (area / aspect * w / h).sqrt(), (area * aspect * h / w).sqrt()
    fits = (tall <= 1) & (wide <= 1)
    first, each = fits.int().argmax(0), torch.arange(n)
    whole = torch.ones(n)
    tall, wide = (torch.where(fits.any(0), share[first, each], whole) for share in (tall, wide))
    down, right = (torch.empty(n).uniform_(-1, 1, generator=generator) * (1 - share) for share in (tall, wide))
    mirror = torch.randint(2, (n,), generator=generator) * 2 - 1
    zero = torch.zeros(n)
    maps = torch.stack([torch.stack([wide * mirror, zero, right], 1), torch.stack([zero, tall, down], 1)], 1)
    grid = functional.affine_grid(maps.to(x), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
