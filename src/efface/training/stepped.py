"""A learning rate that falls by steps."""

from typing import Annotated

from efface.options import Ge, Gt, Le, options
from efface.training.erm import Erm


@options
class Stepped(Erm):
    """Training whose learning rate falls by a factor every so many epochs, as several papers have it.

    Args:
        decay_every: epochs between two steps.
        decay: the factor.
    """

    decay_every: Annotated[int, Ge(1)] = 20
    decay: Annotated[float, Gt(0), Le(1)] = 0.1

    def rate(self, epoch: int) -> float:
        return float(self.decay ** (epoch // self.decay_every))
