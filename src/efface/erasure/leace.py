"""LEACE: least-squares concept erasure (Belrose et al., "LEACE: Perfect linear concept erasure in closed form", 2023).

With Σ = Cov(x) = LLᴴ, C = Cov(x, z) and the thin SVD L⁻¹C = U S Vᴴ, the eraser of Theorem 4.3 is

    r(x) = x − (L U) (L⁻ᴴ U)ᴴ (x − μ),

an oblique projection of rank k along span(C): among the affine maps that leave Cov(r(x), z) = 0 it moves x least, in
every quadratic norm at once. One Cholesky factorisation and k solves give it; no eigendecomposition is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from efface.erasure.fitting import MomentsFitter, concept_matrix
from efface.erasure.frozen import FrozenTensors
from efface.erasure.shrinkage import shrinkage_coefficients

ErasureMethod = Literal["leace", "orth"]
"""`leace` moves x least; `orth` projects orthogonally off span(C), which is SAL (Shao et al., 2023)."""


@dataclass(frozen=True)
class LeaceEraser(FrozenTensors):
    """x ↦ x − (x − bias) · proj_rightᴴ · proj_leftᴴ for x of shape `[..., d]`, in O(dk) memory and O(ndk) time."""

    proj_left: Tensor
    """`[d, k]`; with `proj_right` unique only up to a change of basis of the k columns: compare erasers by `P`."""
    proj_right: Tensor
    """`[k, d]`"""
    bias: Tensor | None = None
    """`[d]`, the mean that stays where it is; None for a linear eraser (`affine=False`)."""

    @classmethod
    def fit(cls, x: Tensor, z: Tensor, **options: Any) -> "LeaceEraser":
        """Fit on x `[n, d]` and z `[n]` or `[n, k]`; `options` are `weight` `[n]` and those of `LeaceFitter`."""
        return LeaceFitter.fit(x, z, **options).eraser

    @property
    def P(self) -> Tensor:
        """The projection matrix `[d, d]`: r(x) = P x + (I − P) bias."""
        eye = torch.eye(len(self.proj_left), dtype=self.proj_left.dtype, device=self.proj_left.device)
        return eye - self.proj_left @ self.proj_right

    @property
    def rank(self) -> int:
        """Number of directions removed."""
        return self.proj_left.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Erase the concept from x `[..., d]`; the result has the dtype of x (the eraser's if x holds integers)."""
        if x.shape[-1:] != self.proj_left.shape[:1]:
            raise ValueError(f"x has shape {list(x.shape)}, but its last dimension must be {len(self.proj_left)}")
        if not (x.is_floating_point() or x.is_complex()):
            x = x.to(self.proj_left.dtype)
        delta = x.to(torch.promote_types(x.dtype, self.proj_left.dtype))
        right, left = self.proj_right.to(delta.dtype), self.proj_left.to(delta.dtype)
        if self.bias is not None:
            delta = delta - self.bias
        return x - ((delta @ right.mH) @ left.mH).to(x.dtype)

    def then(self, other: "LeaceEraser") -> "LeaceEraser":
        """One eraser that does what this one and then the other does, of at most the sum of their ranks.

        What this one has removed stays removed: an affine map of x keeps Cov(x, z) = 0.

        Raises:
            ValueError: the two act on different widths.
        """
        if len(self.proj_left) != len(other.proj_left):
            raise ValueError(f"other acts on {len(other.proj_left)} features, but this eraser on {len(self.proj_left)}")
        zero = torch.zeros_like(self.proj_left[:, 0])
        bias, other_bias = (zero if b is None else b for b in (self.bias, other.bias))
        left = torch.cat([self.proj_left, other.proj_left], 1)
        right = torch.cat([self.proj_right, other.proj_right - (other.proj_right @ self.proj_left) @ self.proj_right])
        # The constant part of the edit, left · offset, written as left · right · bias.
        inner = other_bias - self.proj_left @ (self.proj_right @ bias)
        offset = torch.cat([self.proj_right @ bias, other.proj_right @ inner])
        if self.bias is None and other.bias is None:
            return LeaceEraser(left, right)
        return LeaceEraser(left, right, torch.linalg.pinv(right) @ offset)


class LeaceFitter(MomentsFitter):
    """Streams the statistics that a `LeaceEraser` needs.

    Args:
        x_dim: width d of x.
        z_dim: width k of z. Integer labels 0 … k − 1 may be given in place of their one-hot columns.
        method: see `ErasureMethod`. Change it to compare with SAL, or where d is too large for a d × d covariance.
        affine: keep the mean of x where it is. Turn off for an eraser that must be linear.
        constrain_cov_trace: accepted for compatibility with `concept_erasure`, and without effect there and here: the
            eraser lowers Σ to PΣPᴴ = Σ − (LU)(LU)ᴴ, so the trace of the covariance can only fall.
        device: where the statistics are kept.
        dtype: dtype of the data and of the eraser, at least float32; sums are kept in float64.
        shrinkage: shrink Cov(x) (`optimal_linear_shrinkage`). The guarantee holds either way; it helps the eraser to
            generalise where n is not much larger than d. `"correlation"` shrinks the correlation matrix instead, so
            that the units of the columns do not matter: take it for columns of unlike scale.
        svd_tol: singular values of L⁻¹C up to this are left alone. *Absolute*, in the units of z, as in
            `concept_erasure`: a rare concept may fall below it entirely, of which `eraser` warns.
        rtol: if given, a tolerance relative to the largest singular value instead. Use this for new code.

    Cost: O(nd² + ndk) for the statistics, d³/3 + O(d²k) for the eraser; memory 8d² bytes (24d² in `eraser`).
    """

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        method: ErasureMethod = "leace",
        *,
        affine: bool = True,
        constrain_cov_trace: bool = True,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        shrinkage: bool | Literal["correlation"] = True,
        svd_tol: float = 0.01,
        rtol: float | None = None,
    ) -> None:
        if method not in ("leace", "orth"):
            raise ValueError(f"method is {method!r}, but must be 'leace' or 'orth'")
        if shrinkage not in (True, False, "correlation"):
            raise ValueError(f"shrinkage is {shrinkage!r}, but must be True, False or 'correlation'")
        super().__init__(
            x_dim, z_dim, device=device, dtype=dtype, svd_tol=svd_tol, rtol=rtol, track_xx=method == "leace"
        )
        self.method = method
        self.affine, self.constrain_cov_trace, self.shrinkage = affine, constrain_cov_trace, shrinkage

    @property
    def sigma_xx(self) -> Tensor:
        """Cov(x), shrunk if asked, `[d, d]`."""
        upper = self._sigma_xx()
        return (upper + upper.triu(1).mH).to(self.dtype)

    @cached_property
    def eraser(self) -> LeaceEraser:
        """The eraser of the statistics so far; computed once, anew after each `update`.

        A concept that is constant, or that x tells nothing of, gives an eraser of rank 0, which changes nothing.

        Raises:
            ValueError: fewer than two samples.
        """
        # In an orthonormal basis of the directions in which z varies at all: the columns of one-hot labels sum to 1,
        # and along that direction Cov(x, z) is rounding noise.
        C = self.moments.cov_xz() @ _range(self.moments.cov_zz(), self.eps)
        if self.method == "leace":
            left, right = _whitened_span(self._sigma_xx(), C, self.keep, self.dtype)
        else:
            U, s, _ = torch.linalg.svd(C, full_matrices=False)
            left = U[:, self.keep(s)]
            right = left.mH
        return LeaceEraser(left.to(self.dtype), right.to(self.dtype).contiguous(), self.mean_x if self.affine else None)

    def _sigma_xx(self) -> Tensor:
        """The upper triangle of Cov(x), shrunk if asked, in float64."""
        sigma = self.moments.cov_xx_upper(unbiased=not self.shrinkage)
        if self.shrinkage:
            scale = sigma.new_ones(self.x_dim, 1)
            if self.shrinkage == "correlation":
                scale = _scale(sigma)
                sigma /= scale
                sigma /= scale.mT
            diagonal = sigma.diagonal().real
            norm_sq = 2 * torch.linalg.vector_norm(sigma) ** 2 - torch.linalg.vector_norm(diagonal) ** 2
            alpha, beta = shrinkage_coefficients(diagonal.sum(), norm_sq, self.x_dim, self.moments.n_eff)
            if alpha < 0:  # on nearly isotropic data, where the estimate is no covariance: the target itself
                alpha, beta = torch.zeros_like(alpha), diagonal.mean()
            sigma *= alpha
            sigma.diagonal().add_(beta)
            if self.shrinkage == "correlation":
                sigma *= scale
                sigma *= scale.mT
        return sigma


def erase_jointly(x: Tensor, concepts: Sequence[Tensor], **options: Any) -> LeaceEraser:
    """One eraser of several concepts: none is left, and x is moved as little as that allows.

    Args:
        x: `[n, d]`
        concepts: labels `[n]` or matrices `[n, k_i]`.
        options: of `LeaceFitter`, and `weight` `[n]`.
    """
    return LeaceEraser.fit(x, torch.cat([concept_matrix(z).to(x.device) for z in concepts], 1), **options)


def erase_in_sequence(x: Tensor, concepts: Sequence[Tensor], **options: Any) -> LeaceEraser:
    """Erase the first concept, then the second from what is left, and so on; composed into one eraser.

    None is left either: what is erased stays erased under the affine maps that follow. Without shrinkage the result is
    that of `erase_jointly`; with it, x is moved a little further, and the order matters. For concepts that arrive one
    after the other. Arguments as there.
    """
    eraser = LeaceEraser.fit(x, concepts[0], **options)
    for z in concepts[1:]:
        eraser = eraser.then(LeaceEraser.fit(eraser(x), z, **options))
    return eraser


def _scale(sigma: Tensor) -> Tensor:
    """Standard deviations `[d, 1]` of a covariance `[d, d]`; 1 for constant columns."""
    std = sigma.diagonal().real.clamp_min(0).sqrt()
    return torch.where(std > 0, std, 1)[:, None]


def _range(sigma: Tensor, eps: float) -> Tensor:
    """An orthonormal basis `[k, rank]` of the range of a covariance `[k, k]` whose entries have relative error eps."""
    scale = torch.linalg.diagonal(sigma).real.clamp_min(0).sqrt()
    unit = torch.where(scale > 0, scale, 1)[:, None]
    values, vectors = torch.linalg.eigh(sigma / unit / unit.mT)
    kept = vectors[:, values > 10 * len(sigma) * eps * values.clamp_min(0).max()]
    basis: Tensor = torch.linalg.qr(scale[:, None] * kept)[0]
    return basis


def _whitened_span(
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
    scale = _scale(upper)
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
