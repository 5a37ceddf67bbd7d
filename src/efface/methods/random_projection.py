"""Removal of random directions as a method of the grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from efface.erasure.projections import RandomProjectionEraser
from efface.methods.erasure import RankedErasure
from efface.problem import Features, Problem


@dataclass(frozen=True, kw_only=True)
class RandomProjection(RankedErasure):
    """A random subspace, drawn by the run's seed: the control."""

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[RandomProjectionEraser, dict[str, Any]]:
        rank = self.rank_in(problem)
        return RandomProjectionEraser.fit(
            drop(data.x), data.a, rank=rank, weight=data.weight, affine=self.affine, seed=problem.seed
        ), {}
