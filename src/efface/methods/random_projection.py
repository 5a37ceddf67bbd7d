"""Removal of random directions as a method of the grid."""

from dataclasses import dataclass
from typing import Any

from efface.erasure.projections import RandomProjectionEraser
from efface.methods.base import Features, Problem
from efface.methods.erasure import RankedErasure


@dataclass(frozen=True, kw_only=True)
class RandomProjection(RankedErasure):
    """A random subspace, drawn by the run's seed: the control."""

    def erase(self, data: Features, problem: Problem) -> tuple[RandomProjectionEraser, dict[str, Any]]:
        rank = self.rank_in(problem)
        return RandomProjectionEraser.fit(
            data.x, data.a, rank=rank, weight=data.weight, affine=self.affine, seed=problem.seed
        ), {}
