"""The directions of x that covary with a concept, from covariances that may be singular."""

from collections.abc import Callable

import torch
from torch import Tensor


def column_scale(sigma: Tensor) -> Tensor:
    """Standard deviations `[d, 1]` of a covariance `[d, d]`; 1 for constant columns."""
    std = sigma.diagonal().real.clamp_min(0).sqrt()
    return torch.where(std > 0, std, 1)[:, None]


def range_basis(sigma: Tensor, eps: float) -> Tensor:
    """An orthonormal basis `[k, rank]` of the range of a covariance `[k, k]` whose entries have relative error eps."""
    scale = torch.linalg.diagonal(sigma).real.clamp_min(0).sqrt()
    unit = torch.where(scale > 0, scale, 1)[:, None]
    values, vectors = torch.linalg.eigh(sigma / unit / unit.mT)
    kept = vectors[:, values > 10 * len(sigma) * eps * values.clamp_min(0).max()]
    basis: Tensor = torch.linalg.qr(scale[:, None] * kept)[0]
    return basis


def whitened_span(
    upper: Tensor, C: Tensor, keep: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The factors of the eraser: `left` spanning the kept part of C, and (leftᴴ Σ⁻¹ left)⁻¹ leftᴴ Σ⁻¹.

    Σ is factored in the working dtype, which decides the rank; what is returned is refined to float64.

    Args:
        upper: upper triangle of Σ `[d, d]`, positive semi-definite, float64; overwritten.
        C: `[d, k]`, float64.
        keep: which singular values of L⁻¹C to erase, Σ = LLᴴ.
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
    if not failed and float(R.diagonal().real.square().min()) > 10 * eps:
        _, s, Vh = torch.linalg.svd(torch.linalg.solve_triangular(R.mH, C.to(dtype), upper=False), full_matrices=False)
        kept = keep(s)
        left = C @ (Vh[kept].mH / s[kept]).to(C.dtype)

        def solve(b: Tensor) -> Tensor:  # contiguous, or the products below are ten times slower
            half = torch.linalg.solve_triangular(R.mH, b.to(dtype), upper=False)
            whole: Tensor = torch.linalg.solve_triangular(R, half, upper=True)
            return whole.to(b.dtype).contiguous()

        solved = solve(left)
        sigma_solved = upper @ solved + (solved.mH @ upper).mH - upper.diagonal().real[:, None] * solved
        residual = left - sigma_solved
        # One step of refinement squares the relative residual, so that this bound leaves it at the rounding of Σ.
        if torch.linalg.matrix_norm(residual) <= eps**0.5 * torch.linalg.matrix_norm(left):
            solved = solved + solve(residual)
            return scale * left, torch.linalg.solve(left.mH @ solved, solved.mH) / scale.mT
    # Singular to rounding. A Cholesky factor may exist all the same and be wrong: use the square root of the
    # correlation matrix on its range.
    values, vectors = torch.linalg.eigh(upper, UPLO="U")
    in_range = values > len(upper) * eps * values[-1]
    values, vectors = values[in_range], vectors[:, in_range]
    U, s, Vh = torch.linalg.svd((vectors / values.sqrt()).mH @ C, full_matrices=False)
    kept = keep(s)
    U, s, Vh = U[:, kept], s[kept], Vh[kept]
    # C V / s and not Σ^½ U, which differ by what C has outside the numerical range of Σ: that has to go too.
    return scale * (C @ Vh.mH / s), (vectors / values.sqrt() @ U / scale).mH
