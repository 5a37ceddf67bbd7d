"""Removal of principal directions as a method of the grid."""

from efface.erasure.projections import PcaEraser
from efface.methods.erasure import RankedErasure
from efface.options import options


@options
class Pca(RankedErasure):
    """Remove the leading principal directions of differences between samples of unlike attribute.

    Bolukbasi et al., 2016. The attribute need not be gone from what is left.
    """

    eraser_class = PcaEraser
