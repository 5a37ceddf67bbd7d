"""R-LACE as a method of the grid."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from torch import Tensor

from efface.erasure.rlace import RlaceEraser, RlaceSolver
from efface.methods.erasure import RankedErasure
from efface.options import Ge, Gt, options
from efface.problem import Features, Problem


@options
class Rlace(RankedErasure):
    """Linear adversarial concept erasure: the projection after which the best predictor of the attribute is worst.

    Ravfogel et al., 2022.

    Args:
        solver: how the game is solved, see `efface.erasure.rlace`.
        l2: λ of the adversary.
        max_iter: steps of an ascent, where the game has to be played.
        restarts: ascents from random starts, after those from known ones; they depend on the seed.
    """

    solver: RlaceSolver = "auto"
    l2: Annotated[float, Gt(0)] = 1e-4
    max_iter: Annotated[int, Ge(1)] = 300
    restarts: Annotated[int, Ge(0)] = 4

    small: ClassVar[dict[str, Any]] = {"rank": 1, "max_iter": 5}
    eraser_class = RlaceEraser

    def eraser_options(self, problem: Problem) -> dict[str, Any]:
        return {
            "solver": self.solver,
            "l2": self.l2,
            "max_iter": self.max_iter,
            "restarts": self.restarts,
            "seed": problem.seed,
        }

    def erase(self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem) -> tuple[Any, dict[str, Any]]:
        eraser, _ = super().erase(data, drop, problem)
        solution = asdict(eraser.solution)
        # Wall-clock time is recorded under `run`, with everything else that may differ between repetitions.
        del solution["seconds"]
        return eraser, {"solution": solution}
