"""Oracle LEACE as a method of the grid."""

from dataclasses import dataclass
from typing import Any, ClassVar

from efface.erasure.oracle import OracleFitter
from efface.methods.erasure import FLOAT32_RTOL, StreamedErasure
from efface.representations import OracleErased


@dataclass(frozen=True, kw_only=True)
class OracleLeace(StreamedErasure):
    """The residual of the features after regression on the attribute (Belrose et al., 2023, theorem 4.4).

    Needs the attribute at test time.

    Args:
        rtol: relative tolerance for eigenvalues of the covariance of the attribute.
    """

    rtol: float = FLOAT32_RTOL

    uses_attribute_at_test: ClassVar[bool] = True
    representation = OracleErased

    def fitter(self, d: int, k: int, **options: Any) -> OracleFitter:
        return OracleFitter(d, k, rtol=self.rtol, **options)
