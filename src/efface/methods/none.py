"""No intervention: the base model as it was trained."""

from efface.debiased import Debiased
from efface.methods.base import Method
from efface.options import options
from efface.problem import Problem
from efface.representations import Representation


@options
class NoIntervention(Method):
    """Leave features and head alone: the row that every other one is compared with."""

    def fit(self, problem: Problem) -> Debiased:
        return Debiased(represent=Representation(), head=problem.head)
