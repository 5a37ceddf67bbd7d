"""No intervention: the base model as it was trained."""

from dataclasses import dataclass
from typing import Any, ClassVar

from efface.debiased import Debiased
from efface.problem import Problem
from efface.representations import Representation


@dataclass(frozen=True, kw_only=True)
class NoIntervention:
    """Leaves features and head alone: the row that every other one is compared with."""

    uses_attribute_at_test: ClassVar[bool] = False
    small: ClassVar[dict[str, Any]] = {}

    def skip(self, problem: Problem) -> str | None:
        return None

    def fit(self, problem: Problem) -> Debiased:
        return Debiased(represent=Representation(), head=problem.head)
