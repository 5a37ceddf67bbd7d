"""Erasure where the concept of every sample is known, also when the eraser is applied."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from efface.erasure.fitting import MomentsFitter, concept_matrix
from efface.erasure.frozen import FrozenTensors
from efface.erasure.shrinkage import optimal_linear_shrinkage
from efface.moments import as_numbers


@dataclass(frozen=True)
class OracleEraser(FrozenTensors):
    """x ↦ x − (z − mean_z) coefᴴ: the residual of the regression of x on z, the smallest of all edits.

    Belrose et al., "LEACE", 2023, theorem 4.4. It needs z when it is applied, so it cannot be used where the attribute
    is unknown.
    """

    coef: Tensor
    """`[d, k]`"""
    mean_z: Tensor
    """`[k]`"""

    @classmethod
    def fit(cls, x: Tensor, z: Tensor, **options: Any) -> "OracleEraser":
        """Fit on x `[n, d]` and z `[n]` or `[n, k]`; `options` are `weight` `[n]` and those of `OracleFitter`."""
        return OracleFitter.fit(x, z, **options).eraser

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Subtract from x `[n, d]` its regression on z, which is labels `[n]` or a matrix `[n, k]`.

        The result has the dtype of x (the eraser's if x holds integers).
        """
        if len(z) != len(x):
            raise ValueError(f"x has {len(x)} samples but z has {len(z)}: give one row of z for each row of x")
        z = concept_matrix(z, len(self.mean_z))
        if z.shape[1] != len(self.mean_z):
            raise ValueError(f"z has {z.shape[1]} columns, but the eraser was fitted on {len(self.mean_z)}")
        x = as_numbers(x, self.coef.dtype)
        expected = (z.to(self.mean_z) - self.mean_z) @ self.coef.mH
        return (x.to(expected.dtype) - expected).to(x.dtype)


class OracleFitter(MomentsFitter):
    """Streams the statistics that an `OracleEraser` needs.

    Args:
        x_dim: width d of x.
        z_dim: width k of z. Integer labels 0 … k − 1 may be given in place of their one-hot columns.
        device: where the statistics are kept.
        dtype: dtype of the data and of the eraser, at least float32; sums are kept in float64.
        shrinkage: shrink Cov(z). The covariance after erasure is then no longer exactly zero.
        svd_tol: *absolute* tolerance for singular values of Cov(z), as in `concept_erasure`.
        rtol: if given, a tolerance relative to the largest singular value instead. Use this for new code.

    Cost: O(ndk + nk²); memory O(dk).
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

    @cached_property
    def eraser(self) -> OracleEraser:
        """The eraser of the statistics so far; computed once, anew after each `update`."""
        values, vectors = torch.linalg.eigh(self._sigma_zz())
        significant = self.is_significant(values.flip(0)).flip(0)
        values, vectors = values[significant], vectors[:, significant]
        coef = self.moments.cov_xz() @ (vectors / values) @ vectors.mH
        return OracleEraser(coef.to(self.dtype), self.mean_z)

    def _sigma_zz(self) -> Tensor:
        if self.shrinkage:
            return optimal_linear_shrinkage(self.moments.cov_zz(unbiased=False), self.moments.n_eff)
        return self.moments.cov_zz()
