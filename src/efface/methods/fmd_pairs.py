"""FMD's strategy `external`: counterfactual pairs join the training objective."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from efface.methods.candidates import Edit
from efface.methods.fmd import Edited, FmdPath, train_objective
from efface.methods.gathering import cells_without_samples, drawn_pairs, equal_cells
from efface.methods.retraining import Part
from efface.options import Ge, Gt, Le, Len, options
from efface.problem import Features, Problem
from efface.unlearning.edits import external
from efface.unlearning.objective import TrainingObjective


@options
class FmdPairs(FmdPath):
    """FMD `external`: add the pairs to the training objective, with weight α.

    The objective is (1 − α) · mean loss on train + α · weighted mean loss on both members of the pairs. Every label
    and attribute has the same weight in the latter, whatever their numbers, so that the attribute tells nothing about
    the label. A label and attribute without a sample has none; the record names them as `empty_cells`.

    Args:
        number: how many pairs, drawn at random; all if None.
        alpha: candidates for α.
    """

    number: Annotated[int, Ge(1)] | None = None
    alpha: Annotated[Sequence[Annotated[float, Gt(0), Le(1)]], Len(1)] = (0.9,)

    def training_data(self, problem: Problem) -> Features:
        data = super().training_data(problem)
        drawn_pairs(problem, self.number)  # says if there are fewer
        return data

    def edit(self, part: Part) -> Edited:
        rows, objective = drawn_pairs(part.problem, self.number), train_objective(part)
        members = part.pairs.take(rows) + part.pairs_cf.take(rows)
        edited = self.moved("external", part, objective, self._edits(part, objective, members))
        empty = cells_without_samples(members, part.problem)
        edited.info.update({"pairs": len(rows)} | ({"empty_cells": empty} if empty else {}))
        return edited

    def _edits(self, part: Part, objective: TrainingObjective, members: Features) -> Iterator[Edit]:
        weight = equal_cells(members, part.problem)
        for alpha in self.alpha:
            edited = external(objective, part.theta, members.x, members.y, alpha=alpha, weight=weight)
            yield Edit(edited, {"alpha": alpha}, searched=("alpha",))
