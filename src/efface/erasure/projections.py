"""Orthogonal projections as baselines for LEACE and R-LACE: off class means, principal and random directions."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.inputs import check_rank, checked_weight, feature_matrix, labelled_rows
from efface.erasure.whitening import concept_directions, orthogonal_directions
from efface.moments import Moments, working_dtype

A = TypeVar("A", bound=AffineEraser)


@dataclass(frozen=True)
class MeanProjectionEraser(AffineEraser):
    """Projects off the span of the differences of class means (Haghighatkhah et al., "Better hit the nail on the head
    than beat around the bush", EMNLP 2022); see `AffineEraser`.
    """

    @classmethod
    def fit(
        cls, x: Any, z: Any, *, rank: int | None = None, weight: Any = None, affine: bool = True
    ) -> "MeanProjectionEraser":
        """Fit on x `[n, d]` and labels z `[n]`.

        Args:
            x: features: a tensor, a numpy array, a pandas frame or a list.
            z: labels.
            rank: how many of the leading directions between class means, weighted by class size, in the units of x;
                None for all of them, at most K − 1. The map is then that of SAL and of R-LACE at full rank.
            weight: importance weights `[n]`.
            affine: keep the mean of x where it is.

        Cost: O(nd + dK · min(d, K)).

        Raises:
            ValueError: shapes do not fit, values are not finite, z is constant, or `rank` or a weight is out of range.
        """
        x, y, weight = labelled_rows(x, z, weight)
        rank = None if rank is None else check_rank(rank, x)
        moments = _moments(x, y, weight, track_xx=False)
        eps = torch.finfo(moments.dtype).eps
        # Column i is √π_i (μ_i − μ), up to a rotation: the sum of their squares is the covariance of the class means.
        means = concept_directions(moments, eps, whiten=True)
        U = orthogonal_directions(means, moments.var_x().sqrt(), lambda strength: strength > 1e3 * eps, rank)
        return _projecting(cls, U, moments, affine)


@dataclass(frozen=True)
class PcaEraser(AffineEraser):
    """Projects off the leading principal directions of differences between samples with different concepts; see
    `AffineEraser`.

    Bolukbasi et al., "Man is to computer programmer as woman is to homemaker?", NeurIPS 2016, section 5, where the
    differences are of word pairs. A linear predictor may still read the concept afterwards.
    """

    @classmethod
    def fit(cls, x: Any, z: Any, *, rank: int = 1, weight: Any = None, affine: bool = True) -> "PcaEraser":
        """Fit on x `[n, d]` and labels z `[n]`, from all pairs of samples with different labels.

        The second moment of their differences is Σ_i π_i (1 − π_i) Σ_i + B in closed form, with Σ_i the covariance
        within class i, π_i its share, and B the covariance of the class means. Arguments and errors as for
        `MeanProjectionEraser`.

        Cost: O(nd² + d³).
        """
        x, y, weight = labelled_rows(x, z, weight)
        rank = check_rank(rank, x)
        total = _moments(x, y, weight)
        second = total.cov_xx(unbiased=False)
        for label, share in enumerate(total.mean_z.tolist()):
            rows = y == label
            if share == 0:
                continue
            within = _moments(x[rows], None, None if weight is None else weight[rows]).cov_xx(unbiased=False)
            second = second - share**2 * within  # Σ = Σ_i π_i Σ_i + B
        return cls._leading(second, rank, total, affine)

    @classmethod
    def _leading(cls, second: Tensor, rank: int, moments: Moments, affine: bool) -> "PcaEraser":
        U = torch.linalg.eigh(second)[1][:, -rank:].flip(1)
        return _projecting(cls, U, moments, affine)


@dataclass(frozen=True)
class RandomProjectionEraser(AffineEraser):
    """Projects off a random subspace: the control for erasers of equal rank; see `AffineEraser`."""

    @classmethod
    def fit(
        cls, x: Any, z: Any = None, *, rank: int = 1, seed: int = 0, weight: Any = None, affine: bool = True
    ) -> "RandomProjectionEraser":
        """Draw a subspace of dimension `rank`, uniformly.

        Args:
            x: features `[n, d]`, of which only the width and the mean are used.
            z: not used.
            rank: how many directions to remove.
            seed: draws the subspace.
            weight: importance weights `[n]`.
            affine: keep the mean of x where it is.

        Raises:
            ValueError: shapes do not fit, values are not finite, or `rank` or a weight is out of range.
        """
        x = feature_matrix(x)
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(x.shape[1], check_rank(rank, x), generator=generator, dtype=torch.float64)
        moments = _moments(x, None, checked_weight(weight, x), track_xx=False)
        return _projecting(cls, torch.linalg.qr(normal)[0].to(x.device), moments, affine)


def _moments(x: Tensor, y: Tensor | None, weight: Tensor | None, *, track_xx: bool = True) -> Moments:
    """Gather the moments of x `[n, d]` and of labels `[n]`, or of x alone."""
    k = 0 if y is None else int(y.max()) + 1
    moments = Moments(x.shape[1], k, device=x.device, dtype=working_dtype(x.dtype), track_xx=track_xx)
    moments.update(x, x[:, :0] if y is None else y, weight)
    return moments


def _projecting(kind: type[A], directions: Tensor, moments: Moments, affine: bool) -> A:
    """Make the eraser that projects off the span of orthonormal `directions` `[d, k]`, about the mean or about zero."""
    mean = moments.mean_x.to(moments.dtype) if affine else None
    return kind.orthogonal(directions.to(moments.dtype), mean)
