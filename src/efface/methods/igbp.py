"""IGBP as a method of the grid."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from torch import Tensor

from efface.erasure.igbp import IgbpEraser
from efface.methods.erasure import Erasure
from efface.methods.gathering import require_two_of_each_attribute
from efface.methods.trade_off import trade_off
from efface.options import Ge, options
from efface.problem import Features, Problem
from efface.representations import SteppedByNetworks


@options
class Igbp(Erasure):
    """Iterative gradient-based projection: train a network for the attribute, step to where it is undecided, repeat.

    Iskander, Radinsky & Belinkov, 2023; `efface.erasure.igbp` says what was added. No guarantee: `info` has what a
    fresh network still reads after each iteration, on held-out samples of those fitted on, and what the base model's
    head then gets right on val.

    Args:
        iterations: how many networks at most; fewer if a fresh one reads nothing.
        width: of their hidden layer.
        whiten: take steps where the features are white; if not, as published, but in their standard deviations.
    """

    iterations: Annotated[int, Ge(1)] = 10
    width: Annotated[int, Ge(1)] = 64
    whiten: bool = True

    small: ClassVar[dict[str, Any]] = {"iterations": 1, "width": 8}
    representation = SteppedByNetworks

    def training_data(self, problem: Problem) -> Features:
        data = super().training_data(problem)
        require_two_of_each_attribute(data, problem, f"fit_on={self.fit_on}", "to train on one and stop by another")
        return data

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[IgbpEraser, dict[str, Any]]:
        eraser = IgbpEraser.fit(
            drop(data.x),
            data.a,
            iterations=self.iterations,
            width=self.width,
            whiten=self.whiten,
            weight=data.weight,
            seed=problem.seed,
        )
        facts = {"iterations": len(eraser.hidden_weight), "trade_off": trade_off(eraser, drop(problem.val.x), problem)}
        return eraser, facts
