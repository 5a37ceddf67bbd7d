"""INLP as a method of the grid."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from torch import Tensor

from efface.erasure.inlp import InlpEraser
from efface.methods.erasure import Erasure
from efface.options import Ge, Gt, options
from efface.problem import Features, Problem


@options
class Inlp(Erasure):
    """Iterative nullspace projection: remove what a linear predictor uses, and repeat (Ravfogel et al., 2020).

    Args:
        rank: how many directions to remove at most; None for no limit.
        iterations: how many predictors at most; None for no limit. Each removes one direction if the attribute is
            binary, else one fewer than it has values.
        affine: keep the mean of the features where it is.
        l2: λ of the predictors.
    """

    rank: Annotated[int, Ge(1)] | None = None
    iterations: Annotated[int, Ge(1)] | None = 5
    affine: bool = True
    l2: Annotated[float, Gt(0)] = 1e-4

    small: ClassVar[dict[str, Any]] = {"iterations": 1}

    def __post_init__(self) -> None:
        if self.rank is None and self.iterations is None:
            raise ValueError("rank and iterations are both null: set one of them, or INLP removes all but one feature")

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[InlpEraser, dict[str, Any]]:
        eraser = InlpEraser.fit(
            drop(data.x),
            data.a,
            rank=self.rank,
            iterations=self.iterations,
            weight=data.weight,
            affine=self.affine,
            l2=self.l2,
            x_dev=drop(problem.val.x),
            z_dev=problem.val.a,
        )
        return eraser, {"val_accuracies": list(eraser.accuracies)}
