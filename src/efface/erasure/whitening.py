"""Directions of x that covary with a concept, from covariances that may be singular."""

from collections.abc import Callable

import torch
from torch import Tensor

from efface.moments import Moments

_CLASSES = 1 << 16
"""How many classes of labels are worked with at a time: d as many numbers."""


def column_scale(sigma: Tensor) -> Tensor:
    """Return the standard deviations `[d, 1]` of a covariance `[d, d]`; 1 for constant columns."""
    std = sigma.diagonal().real.clamp_min(0).sqrt()
    return torch.where(std > 0, std, 1)[:, None]


def _range(sigma: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find the eigenvalues `[r]` and -vectors `[k, r]` of the range of a correlation matrix, and the deviations `[k]`.

    Args:
        sigma: covariance `[k, k]` with entries of relative error eps.
        eps: that error.
    """
    scale = torch.linalg.diagonal(sigma).real.clamp_min(0).sqrt()
    unit = torch.where(scale > 0, scale, 1)[:, None]
    values, vectors = torch.linalg.eigh(sigma / unit / unit.mT)
    in_range = values > 10 * len(sigma) * eps * values.clamp_min(0).max()
    return values[in_range], vectors[:, in_range], scale


def range_basis(sigma: Tensor, eps: float) -> Tensor:
    """Find an orthonormal basis `[k, r]` of the range of a covariance `[k, k]` with entries of relative error eps."""
    _, vectors, scale = _range(sigma, eps)
    basis: Tensor = torch.linalg.qr(scale[:, None] * vectors)[0]
    return basis


def inverse_root(sigma: Tensor, eps: float) -> Tensor:
    """Find W `[k, r]` with Wᴴ Σ W = I on the range of a covariance Σ `[k, k]` with entries of relative error eps."""
    values, vectors, scale = _range(sigma, eps)
    return vectors / values.sqrt() / torch.where(scale > 0, scale, 1)[:, None]


def concept_directions(moments: Moments, eps: float, *, whiten: bool) -> Tensor:
    """Compute C W `[d, r]`, r <= d, whose columns span those of C = Cov(x, z), up to a rotation of the columns.

    Labels need O(dk) memory and O(d²k) time: with π their shares, diag(1 / π) serves C as an inverse of their
    covariance diag(π) − ππᵀ, as the columns of C sum to 0.

    Args:
        moments: of x and z.
        eps: relative error of their covariances.
        whiten: take W with Wᴴ Cov(z) W = I, so that the units of z do not matter, and the singular values of L⁻¹ C W
            are the canonical correlations of x and z. Else an orthonormal basis of the range of Cov(z), as the columns
            of a one-hot z sum to 1, and Cov(x, z) is rounding noise along that direction.
    """
    if moments.has_labels:
        return _class_directions(moments, whiten)
    C = moments.cov_xz() @ (inverse_root if whiten else range_basis)(moments.cov_zz(), eps)
    return _narrowed(C) if C.shape[1] > C.shape[0] else C


def _class_directions(moments: Moments, whiten: bool) -> Tensor:
    """Compute `concept_directions` of labels, some classes at a time."""
    share = moments.mean_z.real * moments.bessel
    if int((share > 0).sum()) < 2:  # a constant
        return moments.cov_xz(columns=slice(0))
    root = torch.where(share > 0, share, 1).sqrt()
    directions: Tensor | None = None
    for start in range(0, moments.z_dim, _CLASSES):
        columns = slice(start, start + _CLASSES)
        C = moments.cov_xz(columns=columns)
        C = C / root[columns] if whiten else C
        C = C if directions is None else torch.cat([directions, C], 1)
        directions = _narrowed(C) if C.shape[1] > C.shape[0] else C
    assert directions is not None
    return directions


def _narrowed(C: Tensor) -> Tensor:
    """Rotate the columns of C `[d, k]`, k > d, so that all but d of them are 0, and leave those out."""
    R: Tensor = torch.linalg.qr(C.mH, mode="r").R
    return R.mH


def orthogonal_directions(
    C: Tensor, std: Tensor, is_significant: Callable[[Tensor], Tensor], rank: int | None = None
) -> Tensor:
    """Find an orthonormal basis `[d, r]` of the span of the significant part of C, its strongest directions first.

    What is significant does not depend on the units of x, in which the basis is orthonormal: a column of large numbers
    does not hide the concept in one of small numbers.

    Args:
        C: Cov(x, z) with z white, `[d, k]`, float64.
        std: standard deviations of x, `[d]`.
        is_significant: a mask of the strengths of concept directions, descending: norms of their correlations with the
            columns of x.
        rank: keep as many, the strongest in the units of x; None for all.
    """
    correlations = C * torch.where(std > 0, 1 / std, 0)[:, None]
    _, strengths, Vh = torch.linalg.svd(correlations, full_matrices=False)
    basis: Tensor = torch.linalg.svd(C @ Vh[is_significant(strengths)].mH, full_matrices=False)[0]
    return basis[:, :rank]


def eraser_factors(
    upper: Tensor, C: Tensor, is_significant: Callable[[Tensor], Tensor], dtype: torch.dtype, std: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the factors of the LEACE eraser: B spanning the significant part of C, and (Bᴴ Σ⁻¹ B)⁻¹ Bᴴ Σ⁻¹.

    Σ is factored in the working dtype, which decides the rank; the factors returned are refined to float64.

    Args:
        upper: upper triangle of Σ `[d, d]`, positive semi-definite, float64; overwritten.
        C: `[d, k]`, float64.
        is_significant: a mask of the strengths of the directions to erase: the singular values of L⁻¹C, Σ = LLᴴ.
        dtype: the working dtype, in which the products behind the entries of Σ were rounded.
        std: standard deviations `[d]` of x, where Σ is more than its covariance (shrunk, or about zero) and z is white.
            A direction is then as strong as its largest correlation with one column, if that is more.
    """
    eps = torch.finfo(dtype).eps
    # In units of each column's standard deviation, so that neither the units of x nor a constant column matter. The
    # squared diagonal of the factor is then 1 − R² of each column on those before it.
    scale = column_scale(upper)
    upper /= scale
    upper /= scale.mT
    C = C / scale
    ratio = None if std is None else torch.where(std > 0, scale[:, 0] / std, 0)[:, None]
    R, failed = torch.linalg.cholesky_ex(upper.to(dtype), upper=True)
    factors = None
    if not failed and float(R.diagonal().real.square().min()) > 10 * eps:
        factors = _by_cholesky(upper, R, C, is_significant, ratio)
    # A Cholesky factor may exist and be wrong all the same, where Σ is singular to rounding.
    B, A = _by_eigenvectors(upper, C, is_significant, eps) if factors is None else factors
    return scale * B, A / scale.mT


def _by_cholesky(
    upper: Tensor, R: Tensor, C: Tensor, is_significant: Callable[[Tensor], Tensor], ratio: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Compute the factors from Σ = Rᴴ R, R in the working dtype; None if Σ⁻¹ cannot be refined to float64."""
    dtype, eps = R.dtype, torch.finfo(R.dtype).eps
    _, s, Vh = torch.linalg.svd(torch.linalg.solve_triangular(R.mH, C.to(dtype), upper=False), full_matrices=False)
    strength = s
    if ratio is not None:
        strength = torch.maximum(s, (ratio * (C @ Vh.mH.to(C.dtype))).abs().amax(0).to(s.dtype))
    significant = is_significant(strength)
    B = C @ (Vh[significant].mH / s[significant].clamp_min(torch.finfo(s.dtype).tiny ** 0.5)).to(C.dtype)

    def solve(b: Tensor) -> Tensor:  # contiguous, or the products below are ten times slower
        half = torch.linalg.solve_triangular(R.mH, b.to(dtype), upper=False)
        whole: Tensor = torch.linalg.solve_triangular(R, half, upper=True)
        return whole.to(b.dtype).contiguous()

    solved = solve(B)
    residual = B - (upper @ solved + (solved.mH @ upper).mH - upper.diagonal().real[:, None] * solved)
    # One step of refinement squares the relative residual, so that this bound leaves it at the rounding of Σ.
    if torch.linalg.matrix_norm(residual) > eps**0.5 * torch.linalg.matrix_norm(B):
        return None
    solved = solved + solve(residual)
    return B, torch.linalg.solve(B.mH @ solved, solved.mH)


def _by_eigenvectors(
    upper: Tensor, C: Tensor, is_significant: Callable[[Tensor], Tensor], eps: float
) -> tuple[Tensor, Tensor]:
    """Compute the factors from the square root of the correlation matrix on its range."""
    values, vectors = torch.linalg.eigh(upper, UPLO="U")
    in_range = values > len(upper) * eps * values[-1]
    values, vectors = values[in_range], vectors[:, in_range]
    U, s, Vh = torch.linalg.svd((vectors / values.sqrt()).mH @ C, full_matrices=False)
    significant = is_significant(s)
    U, s, Vh = U[:, significant], s[significant], Vh[significant]
    # C V / s and not Σ^½ U: they differ by the part of C outside the numerical range of Σ, which has to go too.
    return C @ Vh.mH / s, (vectors / values.sqrt() @ U).mH
