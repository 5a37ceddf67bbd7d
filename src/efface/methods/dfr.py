"""Deep feature re-weighting: the last layer re-fitted on the small external set (Kirichenko et al., ICLR 2023)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn

from efface.data.groups import Rule
from efface.debiased import Debiased
from efface.methods.base import Method
from efface.methods.gathering import balanced, drawn_pairs, require_classes
from efface.methods.heads import refit_heads
from efface.methods.selection import best_on_val
from efface.options import Ge, Gt, Len, options
from efface.problem import Features, Problem
from efface.representations import Representation


@options
class Dfr(Method):
    """Fit a new head on the pairs alone, balanced over groups.

    Args:
        members: `both` of each pair, or `cf` for the counterfactual ones.
        reweigh: weight samples so that the attribute is independent of the label (Kamiran and Calders).
        number: how many pairs, drawn at random; all if None.
        l2: candidates for the penalty λ/2 ‖W‖², on features in units of their standard deviation. The best on val is
            taken, the stronger of equals. The grid is wide, so that this yardstick is tuned no worse than what it
            measures; `at_edge` in the record says where it was not wide enough.
        select: the rule on val, see `efface.data.groups.val_score`.
    """

    members: Literal["both", "cf"] = "both"
    reweigh: bool = True
    number: Annotated[int, Ge(1)] | None = None
    l2: Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)] = (1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    select: Rule = "unbiased_accuracy"

    def training_data(self, problem: Problem) -> Features:
        rows = drawn_pairs(problem, self.number)
        pairs_cf = problem.pairs_cf.take(rows)
        data = problem.pairs.take(rows) + pairs_cf if self.members == "both" else pairs_cf
        require_classes(data, problem.n_classes, "among the pairs")
        return balanced(data, problem) if self.reweigh else data

    def fit(self, problem: Problem) -> Debiased:
        data = self.training_data(problem)
        best, info = best_on_val(self._candidates(data, problem), problem, self.select)
        return Debiased(represent=Representation(), head=best.head, fitted_on=data, info=info)

    def _candidates(self, data: Features, problem: Problem) -> "Iterator[_Candidate]":
        penalties = sorted(self.l2, reverse=True)
        fits = refit_heads(data.x, data, n_classes=problem.n_classes, l2=penalties)
        for l2, (head, converged) in zip(penalties, fits, strict=True):
            yield _Candidate(l2, head, converged, head(problem.val.x))


@dataclass(frozen=True)
class _Candidate:
    searched: ClassVar[tuple[str, ...]] = ("l2",)

    l2: float
    head: nn.Linear
    converged: bool
    logits: Tensor

    def facts(self) -> dict[str, Any]:
        return {"l2": self.l2, "converged": self.converged}
