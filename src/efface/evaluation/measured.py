"""Metrics, and why some are null."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """Metrics by name, and a reason for each that is null."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """A number or None, or a dict of such by group or label."""
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: Mapping[str, Tensor | float | None], why_null: Callable[[str], str]) -> "Measured":
        """Take numbers; those that are None, NaN or infinite become null.

        Args:
            values: by the metric's name.
            why_null: called with the name of a metric that has no value here.
        """
        metrics = {name: number(value) for name, value in values.items()}
        nulls = [name for name, metric in metrics.items() if metric is None]
        infinite = {name for name in nulls if (value := values[name]) is not None and math.isinf(value)}
        return cls(metrics, {name: "it is infinite" if name in infinite else why_null(name) for name in nulls})

    def __or__(self, other: "Measured") -> "Measured":
        return Measured(self.metrics | other.metrics, self.reasons | other.reasons)


def number(value: Tensor | float | None) -> float | None:
    """Return a value as JSON has it: None for NaN and infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def by_label(values: Sequence[float]) -> dict[str, float | None]:
    """Return a value for each label under its name in a record, `y=<label>`."""
    return {f"y={label}": number(value) for label, value in enumerate(values)}
