"""FMD's strategies `unlearn` and `replace`: the most harmful training samples leave the training objective."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

from efface.methods.candidates import Edit
from efface.methods.fmd import Edited, FmdPath, require_samples, samples_to_edit, train_objective
from efface.methods.retraining import Part
from efface.options import Ge, options
from efface.problem import Features, Problem
from efface.unlearning.edits import removable, replaced, without
from efface.unlearning.influence import Influence
from efface.unlearning.objective import TrainingObjective

_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the samples that may be edited, as candidates where no number is given."""


@options
class FmdSamples(FmdPath):
    """FMD `unlearn` and `replace`: leave the most harmful training samples out, or put their counterfactuals in.

    Influence functions say which samples raise the bias. Where none does, the model is returned as it is,
    and the record says so in `unchanged_reason`.

    Args:
        strategy: `unlearn` leaves samples out, `replace` puts their counterfactuals in their place.
        number: how many samples, the most harmful first. None for the best on val of a quarter, a half, three quarters
            and all of those that `unlearn` may leave out, or that `replace` finds harmful.
        from_scratch: start every minimisation at zero instead of where the last one ended: the same minima, to the
            tolerance of the gradient, and what unlearning has to be faster than. Of the head only, whose
            objective has one minimum.
    """

    strategy: Literal["unlearn", "replace"] = "unlearn"
    number: Annotated[int, Ge(1)] | None = None
    from_scratch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_scratch and self.layers > 1:
            raise ValueError(
                f"from_scratch is True, but layers={self.layers} have no single minimum to be compared by: use layers=1"
            )

    def training_data(self, problem: Problem) -> Features:
        require_samples(problem, self.strategy, self.number)
        return super().training_data(problem)

    def edit(self, part: Part) -> Edited:
        objective = train_objective(part)
        influence = self.influence(part, objective)
        edits = self._edits(part, objective, influence)
        edited = self.moved(self.strategy, part, objective, edits, from_scratch=self.from_scratch)
        if not influence.raised():
            reason = f"the bias is {influence.bias:.3g}, and no training sample raises it: nothing to unlearn"
            edited.info["unchanged_reason"] = reason
        return replace(edited, influence=influence)

    def _edits(self, part: Part, objective: TrainingObjective, influence: Influence) -> Iterator[Edit]:
        ranking = influence.ranking()
        for number in self._numbers(influence, part):
            rows = ranking[:number]
            if self.strategy == "unlearn":
                edited = without(objective, rows)
            else:
                edited = replaced(objective, rows, part.scaled(part.problem.counterfactual(rows)).x)
            yield Edit(edited, {"samples": number, "predicted_change": influence.predicted_change(rows)})

    def _numbers(self, influence: Influence, part: Part) -> list[int]:
        """Return how many samples to edit, a number for each candidate; none where no sample raises the bias.

        Raises:
            ValueError: `number` is more than may be left out.
        """
        if not influence.raised():
            return []
        number = samples_to_edit(influence, self.strategy, self.number)
        most = removable(part.train.y, influence.ranking()) if self.strategy == "unlearn" else number
        if self.number is None:
            return sorted({int(share * min(number, most)) for share in _SHARES} - {0})
        if number > most:
            raise ValueError(
                f"number is {number}, but a class would lose its last sample after {most}: leave out at most so many"
            )
        return [number]
