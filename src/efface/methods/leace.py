"""LEACE as a method of the grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from efface.erasure.leace import LeaceEraser, LeaceFitter
from efface.methods.erasure import Erasure


@dataclass(frozen=True, kw_only=True)
class Leace(Erasure):
    """Least-squares concept erasure of the attribute (Belrose et al., 2023).

    Args:
        affine: keep the mean of the features where it is.
        shrinkage: shrink the covariance of the features.
        rtol: relative tolerance for singular values; 1e3 roundings of float32 by default.

    """

    affine: bool = True
    shrinkage: bool = True
    rtol: float = 1e3 * torch.finfo(torch.float32).eps

    def eraser(self, x: Tensor, z: Tensor, weight: Tensor | None) -> LeaceEraser:
        fitter = LeaceFitter.fit(x, z, weight=weight, affine=self.affine, shrinkage=self.shrinkage, rtol=self.rtol)
        return fitter.eraser
