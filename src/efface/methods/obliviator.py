"""Obliviator as a method of the grid."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from torch import Tensor

from efface.erasure.obliviator import ObliviatorEraser
from efface.methods.base import NotApplicable
from efface.methods.erasure import Erasure
from efface.methods.gathering import require_two_of_each_attribute
from efface.methods.trade_off import trade_off
from efface.options import Ge, options
from efface.problem import Features, Problem
from efface.representations import Oblivious


@options
class Obliviator(Erasure):
    """Lower the dependence of the features on the attribute in a Gaussian kernel, little by little.

    Akbari, Afshari & Boddeti, 2025; `efface.erasure.obliviator` says what differs. No guarantee: `info` has what a
    fresh network still reads after each iteration, and what the base model's head then gets right on val.

    Args:
        iterations: how many at most; fewer if a fresh network reads nothing.
        keep_label: keep what depends on the label in particular, beside the features as a whole.
        width: of the hidden layer of the encoders.
        features: Fourier features of each kernel.
        steps: of each encoder.
    """

    iterations: Annotated[int, Ge(1)] = 10
    keep_label: bool = True
    width: Annotated[int, Ge(1)] = 256
    features: Annotated[int, Ge(2)] = 1000
    steps: Annotated[int, Ge(1)] = 50

    small: ClassVar[dict[str, Any]] = {"iterations": 1, "width": 8, "features": 40, "steps": 2}
    representation = Oblivious

    def training_data(self, problem: Problem) -> Features:
        if self.features <= problem.n_attributes:
            raise NotApplicable(
                f"features={self.features}: the attribute has {problem.n_attributes} values, and there must be more "
                "Fourier features"
            )
        data = super().training_data(problem)
        require_two_of_each_attribute(data, problem, f"fit_on={self.fit_on}", "to train on one and stop by another")
        return data

    def erase(
        self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem
    ) -> tuple[ObliviatorEraser, dict[str, Any]]:
        eraser = ObliviatorEraser.fit(
            drop(data.x),
            data.a,
            data.y if self.keep_label else None,
            iterations=self.iterations,
            width=self.width,
            features=self.features,
            steps=self.steps,
            weight=data.weight,
            seed=problem.seed,
        )
        facts = {"iterations": len(eraser.functions), "trade_off": trade_off(eraser, drop(problem.val.x), problem)}
        return eraser, facts
