"""FMD's strategies `unlearn` and `replace`: the most harmful training samples leave the training objective."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch

from efface.methods.fmd import (
    Candidate,
    Converged,
    Damping,
    Edited,
    FmdMinimum,
    outcome,
    require_samples,
    samples_to_edit,
)
from efface.methods.retraining import Part
from efface.methods.selection import best_on_val
from efface.options import Ge, Len, options
from efface.problem import Features, Problem
from efface.unlearning.edits import replaced, without
from efface.unlearning.influence import Influence

_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the samples that may be edited, as candidates where no number is given."""


@options
class FmdSamples(FmdMinimum):
    """FMD `unlearn` and `replace`: leave the most harmful training samples out, or put their counterfactuals in.

    Influence functions say which samples raise the bias. The edited objective is followed from where the part has
    converged on train, or minimised from scratch: the same objective, and what unlearning has to be faster than.

    Args:
        strategy: `unlearn` leaves samples out, `replace` puts their counterfactuals in their place.
        number: how many samples, the most harmful first. None for the best on val of a quarter, a half, three quarters
            and all of those that `unlearn` may leave out, or that `replace` finds harmful.
        from_scratch: start at zero instead of at θ̂. Of the head only, whose objective has one minimum.
    """

    strategy: Literal["unlearn", "replace"] = "unlearn"
    number: Annotated[int, Ge(1)] | None = None
    damping: Annotated[Sequence[Damping], Len(1)] = (1e-4,)
    from_scratch: bool = False

    small: ClassVar[dict[str, Any]] = {"steps": 4}

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
        best, selection = best_on_val(self._candidates(part), self.select)
        selection["tried_on"] = len(part.problem.train)
        return outcome(self.strategy, best, selection, best.influence)

    def _candidates(self, part: Part) -> "Iterator[_Candidate]":
        for damping in self.damping:
            start = self.converge(part, damping, part.theta)
            influence = self.influence(part, start.objective, start.minimum.theta)
            for number in self._numbers(influence):
                yield self._candidate(part, start, influence, number)

    def _numbers(self, influence: Influence) -> list[int]:
        number = samples_to_edit(influence, self.strategy, self.number)
        return [number] if self.number is not None else sorted({max(1, int(share * number)) for share in _SHARES})

    def _candidate(self, part: Part, start: Converged, influence: Influence, number: int) -> "_Candidate":
        rows = influence.ranking()[:number]
        if self.strategy == "unlearn":
            edited = without(start.objective, rows)
        else:
            edited = replaced(start.objective, rows, part.problem.counterfactual(rows).x)
        theta = start.minimum.theta
        minimum, score = self.follow(part, edited, torch.zeros_like(theta) if self.from_scratch else theta)
        return _Candidate(start=start, minimum=minimum, score=score, samples=number, influence=influence)


@dataclass(frozen=True, kw_only=True)
class _Candidate(Candidate):
    searched: ClassVar[tuple[str, ...]] = ("damping", "samples")

    samples: int
    influence: Influence

    def facts(self) -> dict[str, Any]:
        change = self.influence.predicted_change(self.influence.ranking()[: self.samples])
        return {**super().facts(), "samples": self.samples, "predicted_change": change}
