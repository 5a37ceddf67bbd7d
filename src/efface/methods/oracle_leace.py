"""Oracle LEACE as a method of the grid."""

from typing import Annotated, Any, ClassVar

from efface.erasure.oracle import OracleFitter
from efface.methods.erasure import StreamedErasure
from efface.options import Gt, Lt, options
from efface.representations import OracleErased


@options
class OracleLeace(StreamedErasure):
    """Replace the features by their residual after regression on the attribute (Belrose et al., 2023, theorem 4.4).

    The debiased model needs the attribute at test time.

    Args:
        rtol: relative tolerance for eigenvalues of the covariance of the attribute. 1e-4 suits statistics of float32
            data.
    """

    rtol: Annotated[float, Gt(0), Lt(1)] = 1e-4

    uses_attribute_at_test: ClassVar[bool] = True
    representation = OracleErased

    def fitter(self, d: int, k: int, **options: Any) -> OracleFitter:
        return OracleFitter(d, k, rtol=self.rtol, **options)
