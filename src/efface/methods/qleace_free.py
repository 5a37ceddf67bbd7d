"""Quadratic erasure without the attribute at test time, as a method of the grid."""

from collections.abc import Callable
from typing import Annotated, Any

from torch import Tensor

from efface.erasure.quadratic_free import PosteriorQuadraticEraser
from efface.methods.erasure import Erasure
from efface.methods.gathering import require_two_of_each_attribute
from efface.methods.trade_off import trade_off
from efface.options import Ge, options
from efface.problem import Features, Problem
from efface.representations import QuadraticallyErasedFree


@options
class QuadraticLeaceFree(Erasure):
    """Transport features as QLEACE does, under a guess of the attribute: the posterior of a Gaussian mixture.

    The debiased model does not need the attribute, and there is no guarantee. `info` has what the posteriors read
    before each iteration, on the samples fitted on, and what the base model's head gets right on val after it.

    Args:
        iterations: how often, each time fitted on what is left.
    """

    iterations: Annotated[int, Ge(1)] = 1

    representation = QuadraticallyErasedFree

    def training_data(self, problem: Problem) -> Features:
        data = super().training_data(problem)
        require_two_of_each_attribute(data, problem, f"fit_on={self.fit_on}", "so no covariance")
        return data

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[PosteriorQuadraticEraser, dict[str, Any]]:
        eraser = PosteriorQuadraticEraser.fit(drop(data.x), data.a, iterations=self.iterations, weight=data.weight)
        return eraser, {"iterations": self.iterations, "trade_off": trade_off(eraser, drop(problem.val.x), problem)}
