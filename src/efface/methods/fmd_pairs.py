"""FMD's strategy `external`: counterfactual pairs join the training objective."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import Tensor

from efface.methods.fmd import Candidate, Converged, Damping, Edited, FmdMinimum, outcome
from efface.methods.gathering import drawn_pairs
from efface.methods.retraining import Part
from efface.methods.selection import best_on_val, described
from efface.options import Ge, Gt, Le, Len, options
from efface.problem import Features, Problem
from efface.unlearning.edits import external


@options
class FmdPairs(FmdMinimum):
    """FMD `external`: add the counterfactual members of the pairs to the training objective, with weight α.

    The objective is (1 − α) · mean loss on train + α · mean loss on those members + λ/2 ‖θ − θ̂‖², with θ̂ converged on
    train; see `efface.unlearning.edits.external`.

    Args:
        number: how many pairs, drawn at random; all if None.
        alpha: candidates for α; the best on val is taken. None for `balancing_weights`.
        search: candidates are tried on about so many training samples, evenly spaced, and the best is fitted on all.
            Lower it where a fit is slow; with one candidate there is nothing to try.
    """

    number: Annotated[int, Ge(1)] | None = None
    alpha: Annotated[Sequence[Annotated[float, Gt(0), Le(1)]], Len(1)] | None = None
    damping: Annotated[Sequence[Damping], Len(1)] = (1e-5, 1e-4)
    search: Annotated[int, Ge(1)] = 10_000

    small: ClassVar[dict[str, Any]] = {"steps": 4, "alpha": [0.8]}

    def training_data(self, problem: Problem) -> Features:
        data = super().training_data(problem)
        drawn_pairs(problem, self.number)  # says if there are fewer
        return data

    def edit(self, part: Part) -> Edited:
        alphas = balancing_weights(part.problem.n_attributes) if self.alpha is None else self.alpha
        thinned = part if len(alphas) * len(self.damping) == 1 else _thinned(part, self.search)
        best, selection = best_on_val(self._candidates(thinned, alphas), self.select)
        selection["tried_on"] = len(thinned.problem.train)
        if thinned is not part:
            start = self.converge(part, best.start.damping, best.start.minimum.theta)
            best = self._candidate(part, start, best.alpha, best.minimum.theta)
            selection["chosen"] = described(best, self.select)
        return outcome("external", best, selection)

    def _candidates(self, part: Part, alphas: Sequence[float]) -> "Iterator[_Candidate]":
        for damping in self.damping:
            start = self.converge(part, damping, part.theta)
            theta = start.minimum.theta
            for alpha in alphas:
                candidate = self._candidate(part, start, alpha, theta)
                yield candidate
                theta = candidate.minimum.theta  # from where the minimum for the next weight is not far

    def _candidate(self, part: Part, start: Converged, alpha: float, theta: Tensor) -> "_Candidate":
        pairs_cf = part.problem.pairs_cf.take(drawn_pairs(part.problem, self.number))
        edited = external(start.objective, start.minimum.theta, pairs_cf.x, pairs_cf.y, alpha=alpha)
        minimum, score = self.follow(part, edited, theta)
        return _Candidate(start=start, minimum=minimum, score=score, pairs=len(pairs_cf), alpha=alpha)


@dataclass(frozen=True, kw_only=True)
class _Candidate(Candidate):
    searched: ClassVar[tuple[str, ...]] = ("damping", "alpha")

    pairs: int
    alpha: float

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "pairs": self.pairs, "alpha": self.alpha}


def balancing_weights(n_attributes: int) -> tuple[float, float, float]:
    """Return weights α of the pairs around the one that balances the attribute, for A attribute values.

    α / (1 − α) is half, once and twice A − 1. At once A − 1, counterfactuals that are drawn uniformly balance training
    samples that are all bias-aligned.
    """
    half, once, twice = (1 - 1 / (1 + times * (n_attributes - 1)) for times in (0.5, 1.0, 2.0))
    return half, once, twice


def _thinned(part: Part, search: int) -> Part:
    """Return the part with about `search` training samples, or the part itself if it has fewer than twice as many."""
    every = len(part.problem.train) // search
    if every < 2:
        return part
    return replace(part, problem=replace(part.problem, train=part.problem.train.take(slice(None, None, every))))
