"""Quadratic LEACE as a method of the grid."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from efface.erasure.quadratic import QuadraticFitter
from efface.methods.erasure import StreamedErasure
from efface.problem import Problem
from efface.representations import QuadraticallyErased


@dataclass(frozen=True, kw_only=True)
class QuadraticLeace(StreamedErasure):
    """Optimal transport of every value of the attribute to one mean and one covariance.

    Needs the attribute at test time.

    Args:
        shrinkage: shrink the covariance of the features under each value.
    """

    shrinkage: bool = True

    uses_attribute_at_test: ClassVar[bool] = True
    representation = QuadraticallyErased

    def skip(self, problem: Problem) -> str | None:
        reason = super().skip(problem)
        if reason is None:
            few = torch.bincount(self._data(problem).a, minlength=problem.n_attributes) < 2
            if few.any():
                values = few.nonzero()[:, 0].tolist()
                reason = f"fit_on={self.fit_on}: attributes {values} have fewer than two samples, so no covariance"
        return reason

    def fitter(self, d: int, k: int, **options: Any) -> QuadraticFitter:
        return QuadraticFitter(d, k, shrinkage=self.shrinkage, weighted_mean=True, **options)
