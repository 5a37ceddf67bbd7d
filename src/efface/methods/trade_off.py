"""What an eraser in iterations takes and leaves, after each of them."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from efface.problem import Problem


class Iterative(Protocol):
    """An eraser in t iterations."""

    @property
    def readings(self) -> Any:
        """Named tuples of numbers, of the attribute that is left."""
        ...

    def steps(self, x: Any) -> Iterator[Tensor]:
        """Yield x after each iteration."""
        ...


def trade_off(eraser: Iterative, x: Tensor, problem: Problem) -> dict[str, list[float]]:
    """Return the numbers of the readings, each as a list, and `val_accuracy`.

    Args:
        eraser: see `Iterative`.
        x: features of val `[n, d]`, as the eraser takes them.
        problem: whose head is scored on them, before the first iteration and after each: t + 1 numbers.
    """
    names = eraser.readings[0]._fields
    numbers = {name: [float(getattr(reading, name)) for reading in eraser.readings] for name in names}
    right = ((problem.head(features).argmax(1) == problem.val.y) for features in (x, *eraser.steps(x)))
    return {**numbers, "val_accuracy": [float(each.double().mean()) for each in right]}
