"""INLP as a method of the grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from efface.erasure.inlp import InlpEraser
from efface.methods.erasure import Erasure
from efface.problem import Features, Problem


@dataclass(frozen=True, kw_only=True)
class Inlp(Erasure):
    """Iterative nullspace projection (Ravfogel et al., 2020).

    Args:
        rank: directions removed at most; None for no limit.
        iterations: predictors at most; None for no limit. Each removes one direction if the attribute is binary, else
            one fewer than it has values.
        affine: keep the mean of the features where it is.
        l2: λ of the predictors.
    """

    rank: int | None = None
    iterations: int | None = 5
    affine: bool = True
    l2: float = 1e-4

    small: ClassVar[dict[str, Any]] = {"iterations": 1}

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[InlpEraser, dict[str, Any]]:
        eraser = InlpEraser.fit(
            drop(data.x), data.a, rank=self.rank, iterations=self.iterations, weight=data.weight, affine=self.affine,
            l2=self.l2, x_dev=drop(problem.val.x), z_dev=problem.val.a,
        )  # fmt: skip
        return eraser, {"val_accuracies": list(eraser.accuracies)}
