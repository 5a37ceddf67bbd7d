"""Directions of x that covary with a concept, from covariances that may be singular."""

from collections.abc import Callable

import torch
from torch import Tensor


def column_scale(sigma: Tensor) -> Tensor:
    """Return the standard deviations `[d, 1]` of a covariance `[d, d]`; 1 for constant columns."""
    std = sigma.diagonal().real.clamp_min(0).sqrt()
    return torch.where(std > 0, std, 1)[:, None]


def range_basis(sigma: Tensor, eps: float) -> Tensor:
    """Find an orthonormal basis `[k, r]` of the range of a covariance `[k, k]` with entries of relative error eps."""
    scale = torch.linalg.diagonal(sigma).real.clamp_min(0).sqrt()
    unit = torch.where(scale > 0, scale, 1)[:, None]
    values, vectors = torch.linalg.eigh(sigma / unit / unit.mT)
    in_range = vectors[:, values > 10 * len(sigma) * eps * values.clamp_min(0).max()]
    basis: Tensor = torch.linalg.qr(scale[:, None] * in_range)[0]
    return basis


def eraser_factors(
    upper: Tensor, C: Tensor, is_significant: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute the factors of the LEACE eraser: B spanning the significant part of C, and (Bᴴ Σ⁻¹ B)⁻¹ Bᴴ Σ⁻¹.

    Σ is factored in the working dtype, which decides the rank; the factors returned are refined to float64.

    Args:
        upper: upper triangle of Σ `[d, d]`, positive semi-definite, float64; overwritten.
        C: `[d, k]`, float64.
        is_significant: a mask of the singular values of L⁻¹C to erase, Σ = LLᴴ.
        dtype: the working dtype, in which the products behind the entries of Σ were rounded.
    """
    eps = torch.finfo(dtype).eps
    # In units of each column's standard deviation, so that neither the units of x nor a constant column matter. The
    # squared diagonal of the factor is then 1 − R² of each column on those before it.
    scale = column_scale(upper)
    upper /= scale
    upper /= scale.mT
    C = C / scale
    R, failed = torch.linalg.cholesky_ex(upper.to(dtype), upper=True)
    factors = None
    if not failed and float(R.diagonal().real.square().min()) > 10 * eps:
        factors = _by_cholesky(upper, R, C, is_significant)
    # A Cholesky factor may exist and be wrong all the same, where Σ is singular to rounding.
    B, A = _by_eigenvectors(upper, C, is_significant, eps) if factors is None else factors
    return scale * B, A / scale.mT


def _by_cholesky(
    upper: Tensor, R: Tensor, C: Tensor, is_significant: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Compute the factors from Σ = Rᴴ R, R in the working dtype; None if Σ⁻¹ cannot be refined to float64."""
    dtype, eps = R.dtype, torch.finfo(R.dtype).eps
    _, s, Vh = torch.linalg.svd(torch.linalg.solve_triangular(R.mH, C.to(dtype), upper=False), full_matrices=False)
    significant = is_significant(s)
    B = C @ (Vh[significant].mH / s[significant]).to(C.dtype)

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
