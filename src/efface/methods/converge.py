"""The head trained further on train alone: what unfinished training is worth, which is not to unlearning's credit."""

from dataclasses import replace
from typing import Any, ClassVar

from efface.debiased import Debiased
from efface.methods.candidates import Edit
from efface.methods.path import PathMethod
from efface.methods.retraining import part_of, standardised
from efface.options import options
from efface.problem import Problem
from efface.unlearning.objective import TrainingObjective


@options
class Converge(PathMethod):
    """Follow the path of the mean cross-entropy on train, from the head as it was trained to its minimum."""

    small: ClassVar[dict[str, Any]] = {"penalties": [1.0, 1e-3], "steps": 4}

    def fit(self, problem: Problem) -> Debiased:
        part = standardised(part_of(problem, 1))
        objective = TrainingObjective(x=part.train.x, y=part.train.y)
        chosen, info = self.follow(part, [Edit(objective, {})])
        return replace(chosen.model, info=info)
