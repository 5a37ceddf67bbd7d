"""LEACE and SAL as methods of the grid."""

from dataclasses import dataclass
from typing import Any, Literal

from efface.erasure.leace import ErasureMethod, LeaceFitter
from efface.methods.erasure import FLOAT32_RTOL, StreamedErasure


@dataclass(frozen=True, kw_only=True)
class Leace(StreamedErasure):
    """Least-squares concept erasure of the attribute (Belrose et al., 2023).

    Args:
        projection: `leace`, or `orth` for the orthogonal projection off the same directions (SAL, Shao et al., 2023).
        affine: keep the mean of the features where it is.
        shrinkage: of `LeaceFitter`; `correlation` shrinks the correlation matrix of the features, true their
            covariance, for which features in units of their own must be of one scale.
        rtol: relative tolerance for singular values.
    """

    projection: ErasureMethod = "leace"
    affine: bool = True
    shrinkage: bool | Literal["correlation"] = "correlation"
    rtol: float = FLOAT32_RTOL

    def fitter(self, d: int, k: int, **options: Any) -> LeaceFitter:
        return LeaceFitter(
            d, k, self.projection, affine=self.affine, shrinkage=self.shrinkage, rtol=self.rtol, **options
        )
