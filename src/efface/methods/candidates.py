"""Candidates ever further from the model as it was trained, along regularisation paths, and the choice among them.

None of them can be worse on val than that model, which is the first candidate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.data.groups import Rule
from efface.debiased import Debiased
from efface.methods.retraining import Part
from efface.methods.selection import closest_on_val
from efface.unlearning.objective import TrainingObjective
from efface.unlearning.path import MULTIPLES, PathPoint, penalty_path


class Edit(NamedTuple):
    """A training objective that a path is followed for, and the setting that made it."""

    objective: TrainingObjective
    setting: dict[str, Any]
    """Hyper-parameters, and what they lead to, for the record."""
    searched: tuple[str, ...] = ()
    """Those that the grid could be widened in."""


@dataclass(frozen=True, kw_only=True)
class PathCandidate:
    """One point of the path of one edit; without a point, the model as it was trained."""

    part: Part
    point: PathPoint | None = None
    edit: Edit | None = None

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the facts that a grid was laid over, and could be laid wider.

        λ is one of them only at the end of a path that was cut short: beyond the largest λ lies the model as it was
        trained, and beyond the end of a path that converged lies nothing.
        """
        if self.point is None or self.edit is None:
            return ()
        return self.edit.searched + (("penalty",) if self.point.cut_short else ())

    @property
    def closeness(self) -> float:
        """λ in units of the largest curvature of the edited objective."""
        return torch.inf if self.point is None else self.point.multiple

    @cached_property
    def model(self) -> Debiased:
        """The model, for features as they are."""
        return self.part.model(self.part.theta if self.point is None else self.point.minimum.theta)

    @cached_property
    def logits(self) -> Tensor:
        """`[n, K]` of the val samples, as the model returns them."""
        return self.model(self.part.problem.val.x)

    def facts(self) -> dict[str, Any]:
        """Return the setting, for the record; null for the model as it was trained."""
        point = self.point
        setting = {} if self.edit is None else self.edit.setting
        return {"penalty": point and point.multiple, "l2": point and point.l2, **setting}

    def ending(self) -> dict[str, Any]:
        """Return for the record how the minimisation ended: its steps, and all along the path to it."""
        if self.point is None:
            return {"steps": 0, "steps_total": 0, "converged": None, "grad_norm": None}
        end = self.point.minimum
        steps = {"steps": end.iterations, "steps_total": self.point.steps}
        return steps | {"converged": end.converged, "grad_norm": end.grad_norm}


def follow(
    part: Part,
    edits: Iterable[Edit],
    *,
    select: Rule,
    penalties: Sequence[float] = MULTIPLES,
    max_iter: int = 100,
    from_scratch: bool = False,
) -> tuple[PathCandidate, dict[str, Any]]:
    """Follow the path of each edit, and choose a point by `efface.methods.selection.closest_on_val`.

    Args:
        part: what is re-trained, in the units of its features' standard deviations.
        edits: objectives at features in these units.
        select: the rule on val, see `efface.data.groups.val_score`.
        penalties: λ over the largest curvature of the objective, see `efface.unlearning.path`.
        max_iter: Newton steps at most for each λ.
        from_scratch: start each minimisation at zero.

    Returns:
        The chosen candidate, and facts for the record.
    """
    candidates = [PathCandidate(part=part)]
    for edit in edits:
        points = penalty_path(
            part.trainable, edit.objective, part.theta, penalties, max_iter=max_iter, from_scratch=from_scratch
        )
        candidates += [PathCandidate(part=part, point=point, edit=edit) for point in points]
    chosen, facts = closest_on_val(candidates, part.problem, select)
    return chosen, chosen.ending() | facts
