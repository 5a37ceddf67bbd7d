"""Orthogonal projections as baselines for LEACE and R-LACE: off class means, principal and random directions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.fitting import check_rank, concept_matrix, require_labels
from efface.moments import Moments, working_dtype


@dataclass(frozen=True)
class MeanProjectionEraser(AffineEraser):
    """Projects off the span of the differences of class means (Haghighatkhah et al., "Better hit the nail on the head
    than beat around the bush", EMNLP 2022); see `AffineEraser`.
    """

    @classmethod
    def fit(
        cls, x: Tensor, z: Tensor, *, rank: int | None = None, weight: Tensor | None = None, affine: bool = True
    ) -> "MeanProjectionEraser":
        """Fit on x `[n, d]` and labels z `[n]`.

        Args:
            x: features.
            z: labels.
            rank: how many of the leading directions between class means, weighted by class size; None for all of them,
                at most K − 1. The map is then that of SAL and of R-LACE at full rank.
            weight: importance weights `[n]`.
            affine: keep the mean of x where it is.

        Cost: O(ndK).
        """
        y = require_labels(x, z)
        moments = _moments(x, concept_matrix(y, int(y.max()) + 1), weight, track_xx=False)
        # Column i of Cov(x, z) is π_i (μ_i − μ): scaled so that its square sums to the between-class covariance.
        share = moments.mean_z.clamp_min(1e-30).sqrt()
        U, s, _ = torch.linalg.svd(moments.cov_xz(unbiased=False) / share, full_matrices=False)
        U = U[:, s > 1e3 * torch.finfo(moments.dtype).eps * s.max()]
        U = U if rank is None else U[:, : check_rank(rank, x)]
        return cls.orthogonal(U.to(moments.dtype), moments.mean_x.to(moments.dtype) if affine else None)


@dataclass(frozen=True)
class PcaEraser(AffineEraser):
    """Projects off the leading principal directions of differences between samples with different concepts; see
    `AffineEraser`.

    Bolukbasi et al., "Man is to computer programmer as woman is to homemaker?", NeurIPS 2016, section 5, where the
    differences are of word pairs. A linear predictor may still read the concept afterwards.
    """

    @classmethod
    def fit(
        cls, x: Tensor, z: Tensor, *, rank: int = 1, weight: Tensor | None = None, affine: bool = True
    ) -> "PcaEraser":
        """Fit on x `[n, d]` and labels z `[n]`, from all pairs of samples with different labels.

        The second moment of their differences is Σ_i π_i (1 − π_i) Σ_i + B in closed form, with Σ_i the covariance
        within class i, π_i its share, and B the covariance of the class means. Arguments as for `MeanProjectionEraser`.

        Cost: O(nd² + d³).
        """
        y = require_labels(x, z)
        rank = check_rank(rank, x)
        total = _moments(x, concept_matrix(y, int(y.max()) + 1), weight)
        second = total.cov_xx(unbiased=False)
        for label, share in enumerate((total.mean_z / total.mean_z.sum()).tolist()):
            rows = y == label
            if share == 0:
                continue
            within = _moments(x[rows], x[rows][:, :0], None if weight is None else weight[rows]).cov_xx(unbiased=False)
            second = second - share**2 * within  # Σ = Σ_i π_i Σ_i + B
        return cls._leading(second, rank, total, affine)

    @classmethod
    def _leading(cls, second: Tensor, rank: int, moments: Moments, affine: bool) -> "PcaEraser":
        U = torch.linalg.eigh(second)[1][:, -rank:].flip(1)
        return cls.orthogonal(U.to(moments.dtype), moments.mean_x.to(moments.dtype) if affine else None)


@dataclass(frozen=True)
class RandomProjectionEraser(AffineEraser):
    """Projects off a random subspace: the control for erasers of equal rank; see `AffineEraser`."""

    @classmethod
    def fit(cls, x: Tensor, z: Tensor | None = None, *, rank: int = 1, seed: int = 0, affine: bool = True,
            weight: Tensor | None = None) -> "RandomProjectionEraser":  # fmt: skip
        """Draw a subspace of dimension `rank`, uniformly. Only the width and the mean of x `[n, d]` are used."""
        generator = torch.Generator().manual_seed(seed)
        moments = _moments(x, x.new_zeros(len(x), 0), weight, track_xx=False)
        normal = torch.randn(x.shape[1], check_rank(rank, x), generator=generator, dtype=torch.float64)
        U = torch.linalg.qr(normal)[0].to(x.device, moments.dtype)
        return cls.orthogonal(U, moments.mean_x.to(moments.dtype) if affine else None)


def _moments(x: Tensor, z: Tensor, weight: Tensor | None, *, track_xx: bool = True) -> Moments:
    dtype = working_dtype(x.dtype) if x.is_floating_point() else torch.float32
    moments = Moments(x.shape[1], z.shape[1], device=x.device, dtype=dtype, track_xx=track_xx)
    moments.update(x, z, weight)
    return moments
