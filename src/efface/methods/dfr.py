"""Deep feature re-weighting: the last layer re-fitted on the small external set (Kirichenko et al., ICLR 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn

from efface.data.groups import Rule
from efface.debiased import Debiased
from efface.methods.base import Method
from efface.methods.gathering import balanced, drawn_pairs, require_classes
from efface.methods.heads import refit_head
from efface.methods.selection import best_on_val, score_on_val
from efface.options import Ge, Gt, Len, options
from efface.problem import Features, Problem
from efface.representations import Representation


@options
class Dfr(Method):
    """Fit a new head on the pairs alone, balanced over groups.

    Args:
        members: `both` of each pair, or `cf` for the counterfactual ones, which `FmdPairs` learns from.
        reweigh: weight samples so that the attribute is independent of the label (Kamiran and Calders).
        number: how many pairs, drawn at random; all if None.
        l2: candidates for the penalty λ/2 ‖W‖², on features in units of their standard deviation. The best on val is
            taken.
        select: the rule on val, see `efface.data.groups.val_score`.
    """

    members: Literal["both", "cf"] = "both"
    reweigh: bool = True
    number: Annotated[int, Ge(1)] | None = None
    l2: Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)] = (1e-1, 1e-2, 1e-3)
    select: Rule = "unbiased_accuracy"

    def training_data(self, problem: Problem) -> Features:
        rows = drawn_pairs(problem, self.number)
        pairs_cf = problem.pairs_cf.take(rows)
        data = problem.pairs.take(rows) + pairs_cf if self.members == "both" else pairs_cf
        require_classes(data, problem.n_classes, "among the pairs")
        return balanced(data, problem) if self.reweigh else data

    def fit(self, problem: Problem) -> Debiased:
        data = self.training_data(problem)
        best, info = best_on_val((self._candidate(l2, data, problem) for l2 in self.l2), self.select)
        return Debiased(represent=Representation(), head=best.head, fitted_on=data, info=info)

    def _candidate(self, l2: float, data: Features, problem: Problem) -> "_Candidate":
        head, converged = refit_head(data.x, data, n_classes=problem.n_classes, l2=l2)
        return _Candidate(l2, head, converged, score_on_val(head(problem.val.x), problem, self.select))


@dataclass(frozen=True)
class _Candidate:
    l2: float
    head: nn.Linear
    converged: bool
    score: float

    def facts(self) -> dict[str, Any]:
        return {"l2": self.l2, "converged": self.converged}
