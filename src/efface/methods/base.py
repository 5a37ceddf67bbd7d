"""The contract of a method."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from efface.debiased import Debiased
from efface.problem import Features, Problem


class NotApplicable(ValueError):  # noqa: N818  (it is an answer, and no fault of the caller)
    """A method cannot run on a problem. The message says why, and where something can be done, what."""


class Method(ABC):
    """A way to debias a model.

    A new method is one subclass, decorated with `@options`, and one yaml in conf/method. Its options are its fields.
    It implements `fit`. If it cannot run on every problem, it overrides `training_data`, which says so.
    """

    uses_attribute_at_test: ClassVar[bool] = False
    """Whether the debiased model needs the attribute of a test sample; marked in every table."""
    small: ClassVar[dict[str, Any]] = {}
    """Options with which a test runs the method in under 2 s."""

    def training_data(self, problem: Problem) -> Features:
        """Gather the samples that `fit` learns from, with their weights; by default all of train.

        Raises:
            NotApplicable: the method cannot run on this problem.
        """
        return problem.train

    def skip(self, problem: Problem) -> str | None:
        """Return why the method cannot run on a problem, or None if it can. Fits nothing."""
        try:
            self.training_data(problem)
        except NotApplicable as reason:
            return str(reason)
        return None

    @abstractmethod
    def fit(self, problem: Problem) -> Debiased:
        """Debias the model of a problem, and leave the problem as it is.

        Raises:
            NotApplicable: the method cannot run on this problem.
        """
