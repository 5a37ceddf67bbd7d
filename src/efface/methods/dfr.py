"""Deep feature re-weighting: the last layer re-fitted on the small external set (Kirichenko et al., ICLR 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from efface.data.groups import kamiran_calders
from efface.debiased import Debiased
from efface.methods.heads import refit_head
from efface.methods.selection import Select, check_select, score
from efface.problem import Features, Problem
from efface.representations import Representation


@dataclass(frozen=True, kw_only=True)
class Dfr:
    """A converged head on the pairs alone, balanced over groups.

    Args:
        members: `both` of each pair, or `cf`, the counterfactual ones, which `Fmd` learns from.
        reweigh: under Kamiran–Calders weights, which make the attribute independent of the label.
        number: of pairs, drawn at random; all if None.
        l2: candidates for λ/2 ‖W‖², on features in units of their standard deviation; the best on val is taken.
        select: the rule on val, see `efface.methods.selection.score`.
    """

    members: Literal["both", "cf"] = "both"
    reweigh: bool = True
    number: int | None = None
    l2: Sequence[float] = (1e-1, 1e-2, 1e-3)
    select: Select = "unbiased_accuracy"

    uses_attribute_at_test: ClassVar[bool] = False
    small: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.members not in ("both", "cf"):
            raise ValueError(f"members is {self.members!r}, but must be 'both' or 'cf'")
        if self.number is not None and self.number < 1:
            raise ValueError(f"number is {self.number}, but must be at least 1, or null")
        if len(self.l2) == 0 or not all(l2 > 0 for l2 in self.l2):
            raise ValueError(f"l2 is {list(self.l2)}, but must hold one or more positive numbers")
        check_select(self.select)

    def skip(self, problem: Problem) -> str | None:
        if len(problem.pairs) == 0:
            return "the data set has no counterfactual pairs"
        if self.number is not None and self.number > len(problem.pairs):
            return f"number={self.number}: there are {len(problem.pairs)} pairs"
        data = self._data(problem)
        absent = torch.bincount(data.y, minlength=problem.n_classes) == 0
        if absent.any():
            return f"no sample of classes {absent.nonzero()[:, 0].tolist()} among the pairs"
        if self.reweigh:
            try:
                kamiran_calders(data.y, data.a, problem.n_classes, problem.n_attributes)
            except ValueError as error:
                return f"reweigh=true: {error}"
        return None

    def fit(self, problem: Problem) -> Debiased:
        data = self._data(problem)
        if self.reweigh:
            weight = kamiran_calders(data.y, data.a, problem.n_classes, problem.n_attributes)
            data = Features(data.x, data.y, data.a, weight)
        tried: list[dict[str, Any]] = []
        best: tuple[float, nn.Linear] | None = None
        for l2 in self.l2:
            head, converged = refit_head(data.x, data, n_classes=problem.n_classes, l2=l2)
            value = score(head(problem.val.x), problem.val, problem, self.select)
            tried.append({"l2": l2, "converged": converged, f"val_{self.select}": value})
            if best is None or value > best[0]:
                best, chosen = (value, head), tried[-1]
        assert best is not None
        info = {"selection": self.select, "chosen": chosen, "tried": tried}
        return Debiased(represent=Representation(), head=best[1], fitted_on=data, info=info)

    def _data(self, problem: Problem) -> Features:
        rows = torch.randperm(len(problem.pairs), generator=torch.Generator().manual_seed(problem.seed))
        rows = rows[: self.number].to(problem.pairs.y.device)
        own, cf = (Features(f.x[rows], f.y[rows], f.a[rows]) for f in (problem.pairs, problem.pairs_cf))
        return own + cf if self.members == "both" else cf
