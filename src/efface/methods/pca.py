"""Removal of principal directions as a method of the grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from efface.erasure.projections import PcaEraser
from efface.methods.erasure import RankedErasure
from efface.problem import Features, Problem


@dataclass(frozen=True, kw_only=True)
class Pca(RankedErasure):
    """The leading principal directions of differences between samples of unlike attribute (Bolukbasi et al., 2016)."""

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[PcaEraser, dict[str, Any]]:
        rank = self.rank_in(problem)
        return PcaEraser.fit(drop(data.x), data.a, rank=rank, weight=data.weight, affine=self.affine), {}
