"""2-Wasserstein geometry of centred Gaussians, by their covariance matrices. All functions take batches."""

import torch
from torch import Tensor


def is_positive_definite(A: Tensor) -> Tensor:
    """Test whether each Hermitian matrix of `[..., d, d]` has a Cholesky factor."""
    _, info = torch.linalg.cholesky_ex(A)
    return torch.eq(info, 0)


def ot_distance(K1: Tensor, K2: Tensor) -> Tensor:
    """Compute the 2-Wasserstein distance between N(0, K1) and N(0, K2), `[...]` (Dowson & Landau, 1982, eq. 16)."""
    root, _ = _roots(K1)
    cross, _ = _roots(root @ K2 @ root)
    squared = _trace(K1) + _trace(K2) - 2 * _trace(cross)
    return squared.clamp_min(0).sqrt()


def ot_map(K1: Tensor, K2: Tensor) -> Tensor:
    """Compute the optimal transport map A from N(0, K1) to N(0, K2).

    A = K1^{-½} (K1^{½} K2 K1^{½})^{½} K1^{-½}, with a pseudo-inverse root (Peyré & Cuturi, Computational Optimal
    Transport, remark 2.31). It is Hermitian and p.s.d., and A K1 A = K2 where K1 has full rank.
    """
    root, inverse_root = _roots(K1)
    cross, _ = _roots(root @ K2 @ root)
    return inverse_root @ cross @ inverse_root


def ot_midpoint(K1: Tensor, K2: Tensor, w1: float = 0.5, w2: float = 0.5) -> Tensor:
    """Compute the covariance of the barycentre of N(0, K1) and N(0, K2), with weights that sum to 1, in closed form.

    It lies on the geodesic between them (Takatsu, 2011, eq. 1.2): w1² K1 + w2² K2 + w1 w2 (K1 M + M K1) with M the map
    from K1 to K2.
    """
    product = K1 @ ot_map(K1, K2)
    return w1**2 * K1 + w2**2 * K2 + w1 * w2 * (product + product.mH)


def ot_barycenter(Ks: Tensor, weights: Tensor | None = None, *, max_iter: int = 100) -> Tensor:
    """Compute the covariance `[d, d]` of the 2-Wasserstein barycentre of n > 1 centred Gaussians.

    The fixed-point iteration of Álvarez-Esteban et al., "A fixed-point approach to barycenters in Wasserstein space"
    (2016), theorem 4.2: S ← T S T with T the mean of the maps from S to each. It stops when S no longer moves.

    Args:
        Ks: `[n, d, d]`
        weights: `[n]`, >= 0, normalised here; equal if None.
        max_iter: the largest number of steps. Each costs n + 1 eigendecompositions.
    """
    if Ks.ndim != 3 or len(Ks) < 2:
        raise ValueError(f"Ks has shape {list(Ks.shape)}, but must be [n, d, d] with n > 1")
    if weights is None:
        weights = Ks.new_ones(len(Ks))
    if weights.shape != (len(Ks),):
        raise ValueError(f"weights has shape {list(weights.shape)}, but must be [{len(Ks)}], one for each matrix")
    w = (weights / weights.sum()).to(Ks.dtype)[:, None, None]
    S = (w * Ks).sum(0)
    for _ in range(max_iter):
        T = (w * ot_map(S, Ks)).sum(0)
        updated = _hermitian(T @ S @ T.mH)
        change = torch.linalg.matrix_norm(updated - S)
        S = updated
        if change <= torch.finfo(Ks.dtype).eps ** (2 / 3) * torch.linalg.matrix_norm(S):
            break
    return S


def _roots(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return the p.s.d. square root of p.s.d. matrices, and its pseudo-inverse; one eigendecomposition each."""
    values, vectors = torch.linalg.eigh(A)
    values = values.clamp_min(0)[..., None, :]
    in_range = values > values[..., -1:] * A.shape[-1] * torch.finfo(A.dtype).eps
    root = values.sqrt()
    inverse = torch.where(in_range, 1 / torch.where(in_range, root, 1), 0)
    return vectors * root @ vectors.mH, vectors * inverse @ vectors.mH


def _trace(A: Tensor) -> Tensor:
    diagonal: Tensor = torch.linalg.diagonal(A)
    return diagonal.real.sum(-1)


def _hermitian(A: Tensor) -> Tensor:
    return (A + A.mH) / 2
