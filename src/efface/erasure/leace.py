"""LEACE: least-squares concept erasure (Belrose et al., "LEACE: Perfect linear concept erasure in closed form", 2023).

With Σ = Cov(x) = LLᴴ, C = Cov(x, z) and the thin SVD L⁻¹C = U S Vᴴ, the eraser of Theorem 4.3 is

    r(x) = x − (L U) (L⁻ᴴ U)ᴴ (x − μ),

an oblique projection of rank k along span(C): among the affine maps that leave Cov(r(x), z) = 0 it moves x least, in
every quadratic norm at once. One Cholesky factorisation and k solves give it; no eigendecomposition is needed.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from efface.erasure.shrinkage import optimal_linear_shrinkage
from efface.moments import Moments, working_dtype

ErasureMethod = Literal["leace", "orth"]
"""`leace` moves x least; `orth` projects orthogonally off span(C), which is SAL (Shao et al., 2023)."""


@dataclass(frozen=True)
class LeaceEraser:
    """x ↦ x − (x − bias) · proj_rightᴴ · proj_leftᴴ for x of shape `[..., d]`, in O(dk) memory and O(ndk) time."""

    proj_left: Tensor
    """`[d, k]`; with `proj_right` unique only up to a rotation of the k columns: compare erasers by `P`."""
    proj_right: Tensor
    """`[k, d]`"""
    bias: Tensor | None
    """`[d]`, the mean that stays where it is; None for a linear eraser (`affine=False`)."""

    @classmethod
    def fit(cls, x: Tensor, z: Tensor, **options: Any) -> "LeaceEraser":
        """Fit on x `[n, d]` and z `[n]` or `[n, k]`; `options` are those of `LeaceFitter`."""
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
        """Erase the concept from x `[..., d]`; the result has the dtype and device of x."""
        delta = x.to(self.proj_left.dtype)
        if self.bias is not None:
            delta = delta - self.bias
        return x - ((delta @ self.proj_right.mH) @ self.proj_left.mH).to(x.dtype)

    def to(self, *args: Any, **kwargs: Any) -> "LeaceEraser":
        """The same eraser on another device or in another dtype; arguments as for `Tensor.to`."""
        return LeaceEraser(
            self.proj_left.to(*args, **kwargs),
            self.proj_right.to(*args, **kwargs),
            None if self.bias is None else self.bias.to(*args, **kwargs),
        )

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        from safetensors.torch import save_file

        tensors = {"proj_left": self.proj_left, "proj_right": self.proj_right}
        if self.bias is not None:
            tensors["bias"] = self.bias
        save_file({name: t.contiguous() for name, t in tensors.items()}, path)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged or holds something else.

        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path, device=str(device))
            return cls(tensors["proj_left"], tensors["proj_right"], tensors.get("bias"))
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is not a saved LeaceEraser ({error}): fit and save it again") from error


class LeaceFitter:
    """Streams the statistics that a `LeaceEraser` needs.

    Args:
        x_dim: width d of x.
        z_dim: width k of z.
        method: see `ErasureMethod`. Change it to compare with SAL, or where d is too large for a d × d covariance.
        affine: keep the mean of x where it is. Turn off for an eraser that must be linear.
        constrain_cov_trace: accepted for compatibility with `concept_erasure`. It never acts: PΣPᴴ = Σ − UUᴴ in the
            whitened space, so the trace of the covariance can only fall.
        device: where the statistics are kept.
        dtype: dtype of the data and of the eraser; sums are kept in float64.
        shrinkage: shrink Cov(x) (`optimal_linear_shrinkage`). The guarantee holds either way; it helps the eraser to
            generalise where n is not much larger than d.
        svd_tol: singular values of L⁻¹C up to this are left alone. *Absolute*, in the units of z, as in
            `concept_erasure`: a rare concept may fall below it entirely, of which `eraser` warns.
        rtol: if given, a tolerance relative to the largest singular value instead. Use this for new code.

    Cost: O(nd² + ndk) for the statistics, d³/3 + O(d²k) for the eraser; memory 8d² bytes.

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
        shrinkage: bool = True,
        svd_tol: float = 0.01,
        rtol: float | None = None,
    ) -> None:
        if method not in ("leace", "orth"):
            raise ValueError(f"method is {method!r}, but must be 'leace' or 'orth'")
        if svd_tol <= 0:
            raise ValueError(f"svd_tol is {svd_tol}, but must be positive")
        if rtol is not None and not 0 < rtol < 1:
            raise ValueError(f"rtol is {rtol}, but must lie between 0 and 1")
        self.x_dim, self.z_dim, self.method = x_dim, z_dim, method
        self.affine, self.constrain_cov_trace, self.shrinkage = affine, constrain_cov_trace, shrinkage
        self.svd_tol, self.rtol = svd_tol, rtol
        self.dtype = working_dtype(dtype or torch.get_default_dtype())
        self.moments = Moments(x_dim, z_dim, device=device, dtype=self.dtype, track_xx=method == "leace")

    @classmethod
    def fit(cls, x: Tensor, z: Tensor, *, weight: Tensor | None = None, **options: Any) -> Self:
        """Fit on x `[n, d]`, z `[n]` or `[n, k]`, importance weights `[n]`."""
        z = z.reshape(len(z), -1)
        fitter = cls(x.shape[-1], z.shape[-1], device=x.device, dtype=x.dtype, **options)
        return fitter.update(x, z, weight=weight)

    def update(self, x: Tensor, z: Tensor, *, weight: Tensor | None = None) -> Self:
        """Add a batch: x `[..., d]`, z with one row for each row of x, importance weights `[n]`.

        Raises:
            ValueError: shapes do not fit or values are not finite; the statistics are then unchanged.

        """
        self.moments.update(x, z.reshape(-1, self.z_dim), weight)
        self.__dict__.pop("eraser", None)
        return self

    @property
    def mean_x(self) -> Tensor:
        """`[d]`"""
        return self.moments.mean_x.to(self.dtype)

    @property
    def mean_z(self) -> Tensor:
        """`[k]`"""
        return self.moments.mean_z.to(self.dtype)

    @property
    def sigma_xx(self) -> Tensor:
        """Cov(x), shrunk if asked, `[d, d]`."""
        return self._sigma_xx().to(self.dtype)

    @property
    def sigma_xz(self) -> Tensor:
        """Cov(x, z), `[d, k]`."""
        return self.moments.cov_xz().to(self.dtype)

    @cached_property
    def eraser(self) -> LeaceEraser:
        """The eraser of the statistics so far; computed once, anew after each `update`.

        Raises:
            ValueError: fewer than two samples.

        """
        # In an orthonormal basis of the directions in which z varies at all: the columns of one-hot labels sum to 1,
        # and along that direction Cov(x, z) is rounding noise.
        C = self.moments.cov_xz() @ _range(self.moments.cov_zz(), torch.finfo(self.dtype).eps)
        if self.method == "leace":
            left, right = _whitened_span(self._sigma_xx(), C, self._keep, torch.finfo(self.dtype).eps)
        else:
            U, s, _ = torch.linalg.svd(C, full_matrices=False)
            left = U[:, self._keep(s)]
            right = left.mH
        return LeaceEraser(left.to(self.dtype), right.to(self.dtype).contiguous(), self.mean_x if self.affine else None)

    def _sigma_xx(self) -> Tensor:
        if self.shrinkage:
            return optimal_linear_shrinkage(self.moments.cov_xx(unbiased=False), self.moments.n_eff)
        return self.moments.cov_xx()

    def _keep(self, s: Tensor) -> Tensor:
        """Which of the singular values `s` (descending) to erase."""
        noise = torch.finfo(self.dtype).eps * float(s.max() if len(s) else 0)
        if self.rtol is not None:
            return s > max(self.rtol * float(s.max() if len(s) else 0), noise)
        keep = s > self.svd_tol
        # What is down at rounding noise is rightly left alone, and not worth a word.
        dropped = int((~keep & (s > 1e3 * noise)).sum())
        if dropped:
            warnings.warn(
                f"svd_tol={self.svd_tol} leaves {dropped} of {len(s)} concept directions in place (largest singular "
                f"value {float(s[~keep].max()):.2g}): lower svd_tol, or set rtol for a relative tolerance",
                stacklevel=4,
            )
        return keep


def _range(sigma: Tensor, eps: float) -> Tensor:
    """An orthonormal basis `[k, rank]` of the range of a covariance `[k, k]` whose entries have relative error eps."""
    scale = torch.linalg.diagonal(sigma).real.clamp_min(0).sqrt()
    unit = torch.where(scale > 0, scale, 1)[:, None]
    values, vectors = torch.linalg.eigh(sigma / unit / unit.mT)
    kept = vectors[:, values > len(sigma) * eps * values.clamp_min(0).max()]
    basis: Tensor = torch.linalg.qr(scale[:, None] * kept)[0]
    return basis


def _whitened_span(sigma: Tensor, C: Tensor, keep: Callable[[Tensor], Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """The factors L U and (L⁻ᴴ U)ᴴ of the eraser, U the kept left singular vectors of L⁻¹C.

    Args:
        sigma: Σ `[d, d]`, positive semi-definite.
        C: `[d, k]`
        keep: which singular values to erase.
        eps: relative rounding error of the entries of `sigma`.

    """
    # In units of each column's standard deviation, so that neither the units of x nor a constant column matter. The
    # squared diagonal of L is then 1 − R² of each column on those before it.
    scale = torch.linalg.diagonal(sigma).real.clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, 1)[:, None]
    correlation, C = sigma / scale / scale.mT, C / scale
    L, failed = torch.linalg.cholesky_ex(correlation)
    if not failed and float(torch.linalg.diagonal(L).real.square().min()) > 10 * eps:
        U, s, Vh = torch.linalg.svd(torch.linalg.solve_triangular(L, C, upper=False), full_matrices=False)
        kept = keep(s)
        U, s, Vh = U[:, kept], s[kept], Vh[kept]
        left, right = C @ Vh.mH / s, torch.linalg.solve_triangular(L.mH, U, upper=True)
        residual = torch.linalg.matrix_norm(correlation @ right - left)
        if residual <= 1e3 * eps * torch.linalg.matrix_norm(left):
            return scale * left, (right / scale).mH
    # Singular to rounding. A Cholesky factor may exist all the same and be wrong: use the square root of the
    # correlation matrix on its range.
    values, vectors = torch.linalg.eigh(correlation)
    in_range = values > len(sigma) * eps * values[-1]
    values, vectors = values[in_range], vectors[:, in_range]
    U, s, _ = torch.linalg.svd((vectors / values.sqrt()).mH @ C, full_matrices=False)
    U = U[:, keep(s)]
    return scale * (vectors * values.sqrt() @ U), (vectors / values.sqrt() @ U / scale).mH
