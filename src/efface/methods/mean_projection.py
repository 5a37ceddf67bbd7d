"""Mean projection as a method of the grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from efface.erasure.projections import MeanProjectionEraser
from efface.methods.erasure import RankedErasure
from efface.problem import Features, Problem


@dataclass(frozen=True, kw_only=True)
class MeanProjection(RankedErasure):
    """The directions between the means of the attribute's values (Haghighatkhah et al., 2022)."""

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[MeanProjectionEraser, dict[str, Any]]:
        rank = self.rank_in(problem)
        return MeanProjectionEraser.fit(drop(data.x), data.a, rank=rank, weight=data.weight, affine=self.affine), {}
