"""What the methods of a regularisation path share."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from efface.data.groups import Rule
from efface.methods.base import Method
from efface.methods.candidates import Edit, PathCandidate, follow
from efface.methods.retraining import Part
from efface.options import Ge, Gt, Len, options
from efface.unlearning.path import MULTIPLES


@options
class PathMethod(Method):
    """Minimise an edited training objective plus λ/2 ‖θ − θ̂‖²_D for falling λ, and choose on val how far to go.

    θ̂ is the model as it was trained, and D the features' variances, see `efface.methods.retraining.standardised`. The
    rule of choice is `efface.methods.selection.closest_on_val`: the model as it was trained is a candidate, and where
    nothing beats it, the answer.

    Args:
        penalties: λ over the largest curvature that the objective can have, see `efface.unlearning.path`: from where
            nothing moves to where the objective is at its minimum; a path ends there.
        steps: Newton steps at most for each λ.
        select: the rule on val, see `efface.data.groups.val_score`. Where val has one value of the attribute, it is
            `accuracy`.
    """

    penalties: Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)] = MULTIPLES
    steps: Annotated[int, Ge(1)] = 100
    select: Rule = "unbiased_accuracy"

    def follow(
        self, part: Part, edits: Iterable[Edit], *, from_scratch: bool = False
    ) -> tuple[PathCandidate, dict[str, Any]]:
        """Follow the path of each edit, and choose a point; see `efface.methods.candidates.follow`."""
        return follow(
            part, edits, select=self.select, penalties=self.penalties, max_iter=self.steps, from_scratch=from_scratch
        )
