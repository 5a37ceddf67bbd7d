"""Erasure where the concept of every sample is known, also when the eraser is applied."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.erasure.fitting import MomentsFitter
from efface.erasure.frozen import FrozenTensors
from efface.erasure.inputs import as_concept, as_tensor, concept_rows
from efface.erasure.shrinkage import covariance_coefficients
from efface.erasure.whitening import column_scale
from efface.moments import as_matrix, as_numbers, require_classes


@dataclass(frozen=True)
class OracleEraser(FrozenTensors):
    """x ↦ x − (z − mean_z) coefᴴ: the residual of the regression of x on z, the smallest of all edits.

    Belrose et al., "LEACE", 2023, theorem 4.4. It needs z when it is applied, so it cannot be used where the attribute
    is unknown.
    """

    _shapes: ClassVar[dict[str, str]] = {"coef": "dk", "mean_z": "k"}

    coef: Tensor
    """`[d, k]`"""
    mean_z: Tensor
    """`[k]`"""

    @classmethod
    def fit(cls, x: Any, z: Any, **options: Any) -> "OracleEraser":
        """Fit on x `[n, d]` and z `[n]` or `[n, k]`; `options` are `weight` `[n]` and those of `OracleFitter`.

        Tensors, numpy arrays, pandas frames and lists are taken.
        """
        return OracleFitter.fit(x, z, **options).eraser

    def __call__(self, x: Any, z: Any) -> Tensor:
        """Subtract from x `[..., d]` its regression on z, which is labels `[...]` or a matrix `[..., k]`.

        The result has the dtype of x (the eraser's if x holds integers).
        """
        x = as_numbers(as_tensor(x, "x"), self.coef.dtype)
        d, k = self.coef.shape
        rows, concept = as_matrix(x, d, "x"), concept_rows(x, as_concept(z), k)
        if concept.ndim == 1:
            require_classes(concept, k)
            expected = self.coef.mH[concept.long()] - self.mean_z @ self.coef.mH
        else:
            expected = (concept.to(self.mean_z) - self.mean_z) @ self.coef.mH
        return (rows.to(expected.dtype) - expected).to(x.dtype).view(x.shape)


class OracleFitter(MomentsFitter[OracleEraser]):
    """Streams the statistics that an `OracleEraser` needs.

    Args:
        x_dim: width d of x.
        z_dim: width k of z. Integer labels 0 … k − 1 may be given in place of their one-hot columns.
        device: where the statistics are kept.
        dtype: dtype of the data and of the eraser, at least float32; sums are kept in float64.
        shrinkage: shrink Cov(z). The covariance after erasure is then no longer exactly zero. Where the coefficient α
            of the shrinkage falls below 0, as it does for more than about √n classes, it is taken as 0. Labels that do
            not occur do not count.
        svd_tol: *absolute* tolerance for singular values of Cov(z), as in `concept_erasure`.
        rtol: if given, the tolerance instead for singular values of the *correlation* matrix of z, relative to the
            largest: the units of z do not matter. Use this for new code.

    Labels are counted, and need neither tolerance: what is subtracted is the mean of their class, however rare.

    Cost: O(ndk + nk² + k³), memory O(dk + k²); for labels O(nd) and O(dk).
    """

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        shrinkage: bool = False,
        svd_tol: float = 0.01,
        rtol: float | None = None,
    ) -> None:
        super().__init__(x_dim, z_dim, device=device, dtype=dtype, svd_tol=svd_tol, rtol=rtol, track_xx=False)
        self.shrinkage = shrinkage

    @property
    def sigma_zz(self) -> Tensor:
        """Cov(z), shrunk if asked, `[k, k]`."""
        return self._sigma_zz().to(self.dtype)

    def _solve(self) -> OracleEraser:
        if self.moments.has_labels:
            return OracleEraser(self._of_classes().to(self.dtype), self.mean_z)
        C = self.moments.cov_xz()
        if self.rtol is None:
            coef = C @ self._pseudo_inverse(self._sigma_zz())
        else:
            sigma = self._sigma_zz()
            std = column_scale(sigma)
            correlation = sigma / std / std.mT
            coef = C / std.mT @ self._pseudo_inverse(correlation) / std.mT
        return OracleEraser(coef.to(self.dtype), self.mean_z)

    def _of_classes(self) -> Tensor:
        """Regress on labels without a k × k matrix: with Σ = diag(π) − ππᵀ, solve coef (αΣ + βI) = C.

        As the columns of C sum to 0, coef = (C − (C q / πᵀq) πᵀ) diag(q), where q = 1 / (απ + β). Without shrinkage
        that is the class means less the mean.
        """
        # With shrinkage, Bessel's correction in C alone, as for a matrix z, and in `concept_erasure`.
        C = self.moments.cov_xz(unbiased=self.shrinkage)
        q = share = self.moments.mean_z.real
        if self.shrinkage:
            squares = share.square().sum()
            norm_sq = squares - 2 * (share**3).sum() + squares**2
            classes = int((share > 0).sum())  # those that do not occur have no covariance to shrink
            alpha, beta = covariance_coefficients(1 - squares, norm_sq, classes, self.moments.n_eff)
            q = alpha * share + beta
        q = torch.where(q > 0, 1 / q, 0)
        constant = (C @ q.to(C.dtype)) / (share @ q)
        coef: Tensor = (C - constant[:, None] * share) * q
        return coef

    def _pseudo_inverse(self, sigma: Tensor) -> Tensor:
        """Invert on the span of the significant eigenvectors."""
        values, vectors = torch.linalg.eigh(sigma)
        strength = values if self.rtol is None else values / values.max().clamp_min(torch.finfo(values.dtype).tiny)
        significant = self.is_significant(strength.flip(0)).flip(0)
        values, vectors = values[significant], vectors[:, significant]
        inverse: Tensor = (vectors / values) @ vectors.mH
        return inverse

    def _sigma_zz(self) -> Tensor:
        if not self.shrinkage:
            return self.moments.cov_zz()
        sigma = self.moments.cov_zz(unbiased=False)
        trace, norm_sq = sigma.diagonal().real.sum(), torch.linalg.matrix_norm(sigma) ** 2
        alpha, beta = covariance_coefficients(trace, norm_sq, self.z_dim, self.moments.n_eff)
        return alpha * sigma + beta * torch.eye(self.z_dim).to(sigma)
