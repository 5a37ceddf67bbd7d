"""Dependence of two variables in a Gaussian kernel, by random Fourier features (Gretton et al., "Measuring Statistical
Dependence with Hilbert-Schmidt Norms", 2005; Rahimi & Recht, "Random Features for Large-Scale Kernel Machines", 2007).

With φ the features of a kernel, HSIC(u, v) is ‖Cov(φ(u), v)‖²: zero if no function of u in the kernel's space has a
covariance with v.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_SAMPLES = 500
"""Of which the median distance is taken."""
_TOLERANCE = 1e-5
"""For singular values and eigenvalues, relative to the largest: covariances of float32 data have no more digits."""


class FourierFeatures(NamedTuple):
    """r functions √(2 / r) cos(ωᵀ u + b), whose products are a Gaussian kernel in the mean."""

    frequencies: Tensor
    """`[r, d]`"""
    phases: Tensor
    """`[r]`"""

    @classmethod
    def draw(cls, u: Tensor, r: int, generator: torch.Generator) -> "FourierFeatures":
        """Draw r features for u `[n, d]`. The bandwidth is the median distance between its first 500 rows."""
        distance = torch.pdist(u[:_SAMPLES].detach()).median()
        normal = torch.randn(r, u.shape[1], generator=generator).to(u)
        phases = 2 * torch.pi * torch.rand(r, generator=generator).to(u)
        return cls(normal / torch.where(distance > 0, distance, 1), phases)

    def __call__(self, u: Tensor) -> Tensor:
        """Return features `[n, r]` of u `[n, d]`."""
        waves: Tensor = (u @ self.frequencies.mT + self.phases).cos() * (2 / len(self.phases)) ** 0.5
        return waves


def cross_covariance(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Return Cov(u, v) `[p, q]` of u `[n, p]` and v `[n, q]` under weights w `[n]`."""
    w = w / w.sum()
    return ((u - w @ u) * w[:, None]).mT @ (v - w @ v)


def guarded_functions(phi: Tensor, concept: Tensor, kept: list[tuple[float, Tensor]], w: Tensor, m: int) -> Tensor:
    """Choose functions in the span of phi `[n, r]` that have no covariance with a concept, and tell most of the rest.

    In the null space of Cov(concept, phi), those that maximise Σ τ ‖Cov(v, f)‖², each term over its largest value.

    Args:
        phi: features of a kernel.
        concept: `[n, k]`
        kept: τ > 0, and v `[n, q]`, for each of what shall be told.
        w: weights `[n]`.
        m: how many at most.

    Returns:
        Their coefficients `[r, m]`, orthonormal; columns of zeros where there are fewer.
    """
    covariance = cross_covariance(phi, concept, w)
    basis, strengths, _ = torch.linalg.svd(covariance, full_matrices=True)
    rank = int((strengths > _TOLERANCE * strengths.max()).sum())
    null = basis[:, rank:]
    total = phi.new_zeros(null.shape[1], null.shape[1])
    for tau, v in kept:
        seen = cross_covariance(v, phi, w) @ null
        squares = seen.mT @ seen
        total += tau * squares / torch.linalg.matrix_norm(squares, 2).clamp_min(torch.finfo(squares.dtype).tiny)
    values, vectors = torch.linalg.eigh(total)
    chosen = (null @ torch.where(values > _TOLERANCE * values[-1], vectors, 0)).flip(1)[:, :m]
    return torch.cat([chosen, phi.new_zeros(len(chosen), m - chosen.shape[1])], 1)
