"""Optimal linear shrinkage of a covariance matrix."""

import torch
from torch import Tensor


def optimal_linear_shrinkage(S_n: Tensor, n: int | float | Tensor) -> Tensor:
    """Shrink sample covariances towards the isotropic matrix of the same trace: αS + βσ²I.

    The coefficients are those that are asymptotically optimal in Frobenius norm as the dimension and the sample size
    grow together, for any distribution with moments a little over four (Bodnar, Gupta & Parolya, "On the strong
    convergence of the optimal linear shrinkage estimator for large dimensional covariance matrix", arXiv 1308.2608,
    eq. 2.11–2.12 with the target tr(S)/p · I).

    Args:
        S_n: `[..., p, p]`, Hermitian sample covariances *without* Bessel's correction.
        n: number of samples, or their effective number if they are weighted; `[..., 1, 1]` for one of each matrix.

    Returns:
        `[..., p, p]`. α may fall below 0 on nearly isotropic data, as in the paper. A zero matrix stays zero.
    """
    p = S_n.shape[-1]
    if S_n.shape[-2:] != (p, p):
        raise ValueError(f"S_n has shape {list(S_n.shape)}, but must be square in its last two dimensions")
    if isinstance(n, Tensor) and n.ndim >= 2:  # one number for each matrix, shaped to broadcast with it
        n = n[..., 0, 0]
    trace, norm_sq = torch.linalg.diagonal(S_n).real.sum(-1), torch.linalg.matrix_norm(S_n) ** 2
    alpha, beta = shrinkage_coefficients(trace, norm_sq, p, n)
    eye = torch.eye(p, dtype=S_n.dtype, device=S_n.device)
    shrunk: Tensor = alpha[..., None, None] * S_n + beta[..., None, None] * eye
    return shrunk


def shrinkage_coefficients(trace: Tensor, norm_sq: Tensor, p: int, n: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return α and βσ² of `optimal_linear_shrinkage`, from trace and squared Frobenius norm of the p × p matrices."""
    # With the target t·I, t = tr(S)/p, ‖S‖² − ‖tI‖² is the squared distance of S from the target. Where S is the
    # target to rounding, α is undefined and immaterial; the bound keeps it from amplifying that rounding.
    t = trace / p
    target_sq = p * t**2
    eps = torch.finfo(t.dtype)
    floor = eps.eps**0.5 * target_sq + eps.tiny
    alpha = 1 - p * target_sq / n / torch.maximum(norm_sq - target_sq, floor)
    return alpha, (1 - alpha) * t


def covariance_coefficients(trace: Tensor, norm_sq: Tensor, p: int, n: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return `shrinkage_coefficients` with α >= 0: below, on nearly isotropic data, αS + βσ²I is no covariance."""
    alpha, _ = shrinkage_coefficients(trace, norm_sq, p, n)
    alpha = alpha.clamp_min(0)
    return alpha, (1 - alpha) * trace / p
