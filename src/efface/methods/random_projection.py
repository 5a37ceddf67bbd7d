"""Removal of random directions as a method of the grid."""

from typing import Any

from efface.erasure.projections import RandomProjectionEraser
from efface.methods.erasure import RankedErasure
from efface.options import options
from efface.problem import Problem


@options
class RandomProjection(RankedErasure):
    """Remove a random subspace, drawn by the seed of the run: the control for erasers of equal rank."""

    eraser_class = RandomProjectionEraser

    def eraser_options(self, problem: Problem) -> dict[str, Any]:
        return {"seed": problem.seed}
