"""LEACE and SAL as methods of the grid."""

from typing import Annotated, Any, Literal

from efface.erasure.leace import ErasureMethod, LeaceFitter
from efface.methods.erasure import StreamedErasure
from efface.options import Gt, Lt, options


@options
class Leace(StreamedErasure):
    """Least-squares concept erasure: the smallest edit after which no linear predictor can read the attribute.

    Belrose et al., 2023.

    Args:
        projection: `leace`, or `orth` for the orthogonal projection off the same directions (SAL, Shao et al., 2023).
        affine: keep the mean of the features where it is.
        shrinkage: which estimate is shrunk, see `LeaceFitter`: the `correlation` matrix of the features, so that their
            units do not matter; their covariance if true, for features of one scale; none if false.
        rtol: canonical correlations with the attribute below this are left alone. 1e-4 suits statistics of float32
            data.
    """

    projection: ErasureMethod = "leace"
    affine: bool = True
    shrinkage: bool | Literal["correlation"] = "correlation"
    rtol: Annotated[float, Gt(0), Lt(1)] = 1e-4

    def fitter(self, d: int, k: int, **options: Any) -> LeaceFitter:
        return LeaceFitter(
            d, k, self.projection, affine=self.affine, shrinkage=self.shrinkage, rtol=self.rtol, **options
        )
