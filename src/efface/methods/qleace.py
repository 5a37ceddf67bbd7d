"""Quadratic LEACE as a method of the grid."""

from typing import Any, ClassVar

from efface.erasure.quadratic import QuadraticFitter
from efface.methods.erasure import StreamedErasure
from efface.methods.gathering import require_two_of_each_attribute
from efface.options import options
from efface.problem import Features, Problem
from efface.representations import QuadraticallyErased


@options
class QuadraticLeace(StreamedErasure):
    """Transport the features under every value of the attribute to one mean and one covariance.

    No quadratic predictor can then read the attribute. The debiased model needs the attribute at test time.

    Args:
        shrinkage: shrink the covariance of the features under each value.
    """

    shrinkage: bool = True

    uses_attribute_at_test: ClassVar[bool] = True
    representation = QuadraticallyErased

    def training_data(self, problem: Problem) -> Features:
        data = super().training_data(problem)
        require_two_of_each_attribute(data, problem, f"fit_on={self.fit_on}", "so no covariance")
        return data

    def fitter(self, d: int, k: int, **options: Any) -> QuadraticFitter:
        return QuadraticFitter(d, k, shrinkage=self.shrinkage, weighted_mean=True, **options)
