"""Empirical distributions as sorted quantiles, and transport of one class's distribution to another's."""

from collections.abc import Callable

import torch
from torch import Tensor

from efface.erasure.groupby import groupby


def cdf(x: float | Tensor, q: Tensor) -> Tensor:
    """Compute the share of the quantiles that are at most x, counting ties as `scipy.stats.ecdf` does.

    Args:
        x: data; its last dimensions must be those of `q` without the last (or broadcast to them).
        q: `[..., n]` quantiles, sorted along the last dimension.

    Returns:
        Probabilities of the shape of x, in the default dtype.
    """
    x = torch.as_tensor(x, dtype=q.dtype, device=q.device)
    return _by_feature(lambda q, x: torch.searchsorted(q, x, right=True), x, q) / q.shape[-1]


def icdf(p: Tensor, q: Tensor) -> Tensor:
    """Find the smallest quantile x with cdf(x) >= p, clipped to the smallest and the largest quantile.

    Args:
        p: probabilities, shaped as x in `cdf`.
        q: `[..., n]` quantiles, sorted along the last dimension.

    Returns:
        Values of the shape of p, in the dtype of q.
    """
    n = q.shape[-1]
    # As `cdf` computes them, so that icdf(cdf(x)) <= x holds in floating point too.
    steps = (torch.arange(1, n + 1, device=q.device) / n).to(p.dtype)

    def take(q: Tensor, p: Tensor) -> Tensor:
        return q.gather(-1, torch.searchsorted(steps, p.contiguous()).clamp_max(n - 1))

    return _by_feature(take, p.to(q.device), q)


def _by_feature(fn: Callable[[Tensor, Tensor], Tensor], x: Tensor, q: Tensor) -> Tensor:
    """Apply `fn(q, x)` with the samples of each feature in the last dimension, beside its quantiles."""
    if q.ndim == 0 or q.shape[-1] < 2:
        raise ValueError(f"q has shape {list(q.shape)}, but needs two or more quantiles in its last dimension")
    features = q.shape[:-1]
    shape = torch.broadcast_shapes(x.shape, features)
    samples = shape[: len(shape) - len(features)].numel()
    by_feature = x.expand(shape).reshape(samples, *features).movedim(0, -1).contiguous()
    return fn(q.contiguous(), by_feature).movedim(-1, 0).reshape(shape)


class QuantileNormalizer:
    """Holds the distribution of each feature in each class, as a table of quantiles.

    Args:
        x: `[n, ...]` data (n along `dim`).
        z: `[n]` int64 labels 0 … k − 1, each of which occurs.
        num_bins: quantiles for each feature; memory is k · (size of a sample) · num_bins.
        dim: dimension of x along which samples lie.
    """

    lut: Tensor
    """`[k, ..., num_bins]` quantiles, from the smallest to the largest."""

    def __init__(self, x: Tensor, z: Tensor, num_bins: int = 256, dim: int = 0) -> None:
        if num_bins < 2:
            raise ValueError(f"num_bins is {num_bins}, but must be at least 2")
        groups = groupby(x, z, dim=dim)
        if groups.labels != list(range(len(groups.labels))):
            raise ValueError(f"z holds the labels {groups.labels}, but must hold every one of 0 … k - 1")
        self.dim = dim
        grid = torch.linspace(0, 1, num_bins, device=x.device, dtype=torch.float64)
        self.lut = torch.stack([_quantiles(group.movedim(dim, -1), grid) for group in groups.groups])

    @property
    def num_bins(self) -> int:
        """Number of quantiles for each feature."""
        return self.lut.shape[-1]

    def cdf(self, z: int, x: Tensor) -> Tensor:
        """Apply the probability integral transform of class z to x `[..., *features]`."""
        return cdf(x, self.lut[z])

    def sample(self, z: int, n: int) -> Tensor:
        """Draw n samples `[n, *features]` from class z, each feature independently."""
        features = self.lut.shape[1:-1]
        return icdf(torch.rand(n, *features, device=self.lut.device, dtype=torch.float64), self.lut[z])

    def transport(self, x: Tensor, source_z: Tensor, target_z: int) -> Tensor:
        """Map samples of x from their classes `source_z` `[n]` to `target_z`, each feature to the same quantile."""

        def move(source: int, group: Tensor) -> Tensor:
            moved = icdf(self.cdf(source, group.movedim(self.dim, 0)), self.lut[target_z])
            return moved.movedim(0, self.dim).to(x.dtype)

        return groupby(x, source_z, dim=self.dim).map(move).coalesce()


def _quantiles(x: Tensor, grid: Tensor) -> Tensor:
    """Interpolate quantiles linearly along the last dimension, which may be longer than torch.quantile takes."""
    ordered = x.sort(-1).values
    position = grid * (x.shape[-1] - 1)
    low = position.floor().long()
    high = (low + 1).clamp_max(x.shape[-1] - 1)
    return torch.lerp(ordered[..., low], ordered[..., high], (position - low).to(x.dtype))
