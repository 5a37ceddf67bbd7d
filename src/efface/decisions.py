"""What becomes of a head's logits where a method decides by chance: rules, one of which is drawn for each sample.

The draw is a hash of the sample's features under keys of the run's seed, so that a model gives one sample the same
answer each time, whatever else is in the batch (Cotter, Gupta & Narasimhan, "On making stochastic classifiers
deterministic", NeurIPS 2019).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

CERTAIN = 20.0
"""Log odds of a rule that gives everyone the same label: a probability within 2e-9 of 0 or 1."""
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1))
"""Shifts and multipliers of the last steps of SplitMix64, which spread every bit of a sum over all bits."""


class Drawn(nn.Module):
    """Rules for a binary label: log odds = slope · log odds of the head + offset, of a rule drawn for each sample.

    Args:
        probability: `[A, R]` float64, of each rule; under each value of the attribute, or `[1, R]` for all of them.
        slope, offset: `[A, R]` or `[1, R]` float64.
        column: `[R]` int64: which pair of the head's logits a rule reads, of one or several.
        key: `[d + 1]` int64 for the hash of d features; see `keys`.
    """

    kind: ClassVar[str] = "drawn"
    probability: Tensor
    slope: Tensor
    offset: Tensor
    column: Tensor
    key: Tensor

    def __init__(self, *, probability: Tensor, slope: Tensor, offset: Tensor, column: Tensor, key: Tensor) -> None:
        super().__init__()
        tensors = {"probability": probability, "slope": slope, "offset": offset, "column": column, "key": key}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def uses_attribute(self) -> bool:
        """Whether the rules depend on the attribute."""
        return len(self.probability) > 1

    def forward(self, logits: Tensor, x: Tensor, a: Tensor | None = None) -> Tensor:
        """Return logits `[n, 2]`, minus and plus half of the drawn rule's log odds.

        Args:
            logits: of the head, `[n, 2 C]`.
            x: the features before any map, `[n, d]`.
            a: `[n]`, where the rules depend on it.

        Raises:
            ValueError: they do, and it is missing.
        """
        if self.uses_attribute and a is None:
            raise ValueError("a: these decisions depend on the attribute of each sample")
        value = a if self.uses_attribute and a is not None else torch.zeros(len(x), dtype=torch.int64, device=x.device)
        total = self.probability.cumsum(1)[value]
        rule = (self.uniform(x)[:, None] * total[:, -1:] >= total).sum(1)
        pairs = logits.double().view(len(logits), -1, 2)
        log_odds = (pairs[..., 1] - pairs[..., 0]).gather(1, self.column[rule][:, None])[:, 0]
        half = (self.slope[value, rule] * log_odds + self.offset[value, rule]) / 2
        return torch.stack([-half, half], 1).to(logits.dtype)

    def uniform(self, x: Tensor) -> Tensor:
        """Draw a number in [0, 1) for each row of x `[n, d]`: `[n]` float64, a hash of the row in float32."""
        bits = (x.float() + 0.0).contiguous().view(torch.int32).long()  # -0 + 0 is 0
        number = (bits * self.key[:-1]).sum(1) + self.key[-1]
        for shift, multiplier in _MIX:
            number = (number ^ _shifted(number, shift)) * multiplier
        return _shifted(number, 11).double() * 2.0**-53


def keys(d: int, seed: int, *, without: Sequence[int] = ()) -> Tensor:
    """Draw keys `[d + 1]` for the hash of d features.

    Args:
        d: number of features.
        seed: of the run.
        without: columns that do not count, such as the attribute's own: a sample is then decided by the same chance
            under each attribute.
    """
    generator = torch.Generator().manual_seed(seed)
    key = torch.randint(-(2**62), 2**62, (d + 1,), generator=generator) * 2 + 1
    key[list(without)] = 0
    return key


def _shifted(number: Tensor, by: int) -> Tensor:
    """Shift int64 to the right, and fill with zeros."""
    return (number >> by) & ((1 << (64 - by)) - 1)
