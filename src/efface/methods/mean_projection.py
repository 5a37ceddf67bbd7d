"""Mean projection as a method of the grid."""

from efface.erasure.projections import MeanProjectionEraser
from efface.methods.erasure import RankedErasure
from efface.options import options


@options
class MeanProjection(RankedErasure):
    """Remove the directions between the means of the attribute's values (Haghighatkhah et al., 2022)."""

    eraser_class = MeanProjectionEraser
