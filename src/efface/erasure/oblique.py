"""The common part of the fitters whose eraser is an oblique projection: Cov(x), shrunk or not, and the two factors."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.fitting import MomentsFitter
from efface.erasure.shrinkage import covariance_coefficients
from efface.erasure.whitening import column_scale, eraser_factors

E = TypeVar("E", bound=AffineEraser)

Shrinkage = bool | Literal["correlation"]
"""Which estimate is shrunk: Cov(x) (`optimal_linear_shrinkage`), its correlation matrix, so that the units of the
columns do not matter, or none."""


class ObliqueFitter(MomentsFitter[E]):
    """Base of the fitters whose eraser moves x the least in the metric of Cov(x)."""

    def __init__(self, x_dim: int, z_dim: int, *, affine: bool, shrinkage: Shrinkage, **options: Any) -> None:
        """Make a fitter that has seen no data.

        Args:
            x_dim: width of x.
            z_dim: width of z.
            affine: keep the mean of x where it is.
            shrinkage: see `Shrinkage`.
            options: of `MomentsFitter`.
        """
        if shrinkage not in (True, False, "correlation"):
            raise ValueError(f"shrinkage is {shrinkage!r}, but must be True, False or 'correlation'")
        super().__init__(x_dim, z_dim, **options)
        self.affine, self.shrinkage = affine, shrinkage

    @property
    def sigma_xx(self) -> Tensor:
        """Cov(x), shrunk if asked, `[d, d]`."""
        upper = self._sigma_xx()
        return (upper + upper.triu(1).mH).to(self.dtype)

    def _factors(self, directions: Tensor, is_significant: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the two factors of the oblique projection along `directions` `[d, k]`, see `eraser_factors`."""
        if self.rtol is None:
            return eraser_factors(self._sigma_xx(), directions, is_significant, self.dtype)
        upper, dtype = self._sigma_xx(), self.dtype
        if not self.affine:
            mean = self.moments.mean_x[None]
            upper += (mean.mH @ mean).triu()
            dtype = upper.dtype  # the mean may be far larger than the deviations, whose digits are needed
        std = self.moments.var_x().sqrt() if self.shrinkage or not self.affine else None
        return eraser_factors(upper, directions, is_significant, dtype, std)

    def _warn_of_rank(self, rank: int) -> None:
        if rank > 1 and 2 * rank >= self.x_dim:
            warnings.warn(
                f"the concept covaries with {rank} directions of x, which has {self.x_dim}: little of x is left "
                "without them. Merge classes, or give more features",
                stacklevel=4,
            )

    def _sigma_xx(self) -> Tensor:
        """Return the upper triangle of Cov(x), shrunk if asked, in float64."""
        sigma = self.moments.cov_xx_upper(unbiased=not self.shrinkage)
        if self.shrinkage:
            scale = sigma.new_ones(self.x_dim, 1)
            if self.shrinkage == "correlation":
                scale = column_scale(sigma)
                sigma /= scale
                sigma /= scale.mT
            diagonal = sigma.diagonal().real
            norm_sq = 2 * torch.linalg.vector_norm(sigma) ** 2 - torch.linalg.vector_norm(diagonal) ** 2
            alpha, beta = covariance_coefficients(diagonal.sum(), norm_sq, self.x_dim, self.moments.n_eff)
            sigma *= alpha
            sigma.diagonal().add_(beta)
            if self.shrinkage == "correlation":
                sigma *= scale
                sigma *= scale.mT
        return sigma
