"""R-LACE as a method of the grid."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from efface.erasure.rlace import RlaceEraser, RlaceSolver
from efface.methods.erasure import RankedErasure
from efface.problem import Features, Problem


@dataclass(frozen=True, kw_only=True)
class Rlace(RankedErasure):
    """Linear adversarial concept erasure of the attribute (Ravfogel et al., 2022).

    Args:
        solver: see `efface.erasure.rlace`.
        l2: λ of the adversary.
        max_iter: steps of the game, where it has to be played.
    """

    solver: RlaceSolver = "auto"
    l2: float = 1e-4
    max_iter: int = 300

    small: ClassVar[dict[str, Any]] = {"rank": 1, "max_iter": 5}

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[RlaceEraser, dict[str, Any]]:
        options: dict[str, Any] = {"seed": problem.seed} if self.solver == "sgd" else {}
        eraser = RlaceEraser.fit(
            drop(data.x), data.a, rank=self.rank_in(problem), solver=self.solver, weight=data.weight,
            affine=self.affine, l2=self.l2, max_iter=self.max_iter, **options,
        )  # fmt: skip
        told = asdict(eraser.solution) if eraser.solution else {}
        told.pop("seconds", None)  # those of the method are in the record, where what may differ on repetition is
        return eraser, {"solution": told}
