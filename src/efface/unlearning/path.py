"""The regularisation path around a trained model: from where nothing moves to where a penalty no longer matters.

Of a loss f and a trained θ̂, the minima of f(θ) + λ/2 ‖θ − θ̂‖² for falling λ, each found from the one before. λ is given
as a multiple of the largest curvature that f can have, half the largest eigenvalue of E[x xᵀ] for a head. So the same
multiples mean the same to features of every dimension and every loss; on standardised features they have no unit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.unlearning.objective import Minimum, Trainable, TrainingObjective

MULTIPLES = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""λ over the largest curvature. Under the first one nothing moves: the root mean square of the change of the logits is
at most a fifth of that of the error p − y. The last one lets directions move freely that have a ten-millionth of the
largest curvature."""


@dataclass(frozen=True)
class PathPoint:
    """The minimum under one penalty."""

    multiple: float
    l2: float
    """λ"""
    minimum: Minimum
    steps: int
    """From the start of the path: those of earlier points count where this one was found from them."""
    cut_short: bool
    """Whether the path ends here for want of a lower λ, and not because λ has no effect left."""


def penalty_path(
    trainable: Trainable,
    objective: TrainingObjective,
    centre: Tensor,
    multiples: Sequence[float] = MULTIPLES,
    *,
    max_iter: int = 100,
    from_scratch: bool = False,
) -> Iterator[PathPoint]:
    """Yield the minima of an objective's loss with λ/2 ‖θ − θ̂‖², from the largest λ to the least.

    The path ends early where λ has no effect left: where the loss without it is at a minimum, to the tolerance.

    Args:
        trainable: what θ parametrises.
        objective: its own penalty is left out.
        centre: θ̂, the model as it was trained.
        multiples: λ over the largest curvature of the loss, in any order.
        max_iter: steps for each λ at most.
        from_scratch: start each minimisation at zero instead of where the last one ended: the same minima, to the
            tolerance of the gradient. θ̂ is their centre all the same.
    """
    around = trainable.around(objective, centre)
    start, steps = torch.zeros_like(centre) if from_scratch else centre, 0
    for multiple in sorted(multiples, reverse=True):
        l2 = multiple * around.curvature
        minimum = around.minimise(l2, start, max_iter=max_iter)
        steps = minimum.iterations + (0 if from_scratch else steps)
        ended = minimum.converged and l2 * float((minimum.theta - centre).abs().max()) <= around.tol
        yield PathPoint(multiple, l2, minimum, steps, cut_short=multiple == min(multiples) and not ended)
        if ended:
            break
        if not from_scratch:
            start = minimum.theta
