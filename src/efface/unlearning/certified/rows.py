"""Training samples of which some can be forgotten."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from efface.moments import require_finite


class Rows:
    """Samples by their numbers. Those not yet forgotten come first in memory: they are a slice and not a copy.

    Args:
        x: `[n, d]`; kept as rows (x / max(‖x‖, max_norm), 1)/√2 in float64, one column after the other in memory, where
            products with few columns are fastest.
        y: labels `[n]`.
        ids: the samples' numbers `[n]`, in 0 … total − 1.
        total: how many samples there were before any was forgotten.
        max_norm: see `into_unit_ball`.
    """

    def __init__(self, x: Tensor, y: Tensor, *, ids: Tensor, total: int, max_norm: float) -> None:
        self.n = len(y)
        self.x = augmented(x, max_norm).mT.contiguous().mT
        self.y = y.clone()
        self.ids = ids.clone()
        self._digests = _digests(x, y)
        self._slot_of = torch.full((total,), -1, device=ids.device)
        self._slot_of[ids] = torch.arange(self.n, device=ids.device)

    @property
    def total(self) -> int:
        """How many samples there were before any was forgotten."""
        return len(self._slot_of)

    @property
    def digest(self) -> int:
        """A number that differs between sets of remaining samples, their numbers included."""
        return int((self._digests[: self.n] * (2 * self.ids[: self.n] + 1)).sum())

    def slots(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return where the samples of these numbers are.

        Raises:
            IndexError: a number is out of range.
            ValueError: numbers are not integers, one occurs twice or has been forgotten, or they are all that are left.
        """
        ids = torch.as_tensor(indices, device=self.ids.device).flatten()
        if len(ids) == 0:
            return ids.to(torch.int64)
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(f"indices have dtype {ids.dtype}, but must be the integer numbers of training samples")
        ids = ids.to(torch.int64)
        if int(ids.min()) < 0 or int(ids.max()) >= self.total:
            raise IndexError(
                f"indices run from {int(ids.min())} to {int(ids.max())}, but samples are 0 … {self.total - 1}"
            )
        slots = self._slot_of[ids]
        absent = ids[slots < 0]
        if len(absent):
            raise ValueError(
                f"indices: {len(absent)} samples have been removed before, the first of them {int(absent[0])}"
            )
        if len(ids.unique()) < len(ids):
            raise ValueError("indices: a sample occurs twice, but can be removed only once")
        if len(ids) == self.n:
            raise ValueError(f"indices are all {self.n} samples that are left: no model can be trained on none")
        return slots

    def park(self, slots: Tensor) -> int:
        """Bring these behind all others, and return where they begin; as yet nothing is lost."""
        n = self.n - len(slots)
        tail = torch.arange(n, self.n, device=slots.device)
        leaving, staying = slots[slots < n], tail[~torch.isin(tail, slots)]
        one, other = torch.cat([leaving, staying]), torch.cat([staying, leaving])
        for tensor in (self.x, self.y, self.ids, self._digests):
            tensor[one] = tensor[other]
        self._slot_of[self.ids[one]] = one
        return n

    def forget(self, n: int) -> None:
        """Keep the first n, and overwrite the others with zeros."""
        self._slot_of[self.ids[n : self.n]] = -1
        for tensor in (self.x, self.y, self._digests):
            tensor[n : self.n] = 0
        self.n = n


def require_samples(x: Tensor, y: Tensor) -> Tensor:
    """Return the labels as int64 on the device of x.

    Raises:
        ValueError: shapes do not fit, x is not finite, or y are not integers.
    """
    if x.ndim != 2 or y.shape != (len(x),) or len(x) == 0:
        raise ValueError(f"x has shape {list(x.shape)} and y {list(y.shape)}: give x [n, d] and y [n], n > 0")
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"y has dtype {y.dtype}, but must hold integer labels")
    require_finite(x, "x")
    return y.to(x.device, torch.int64)


def into_unit_ball(x: Tensor, max_norm: float | Tensor = 0.0) -> Tensor:
    """Return rows of x `[n, d]` over the larger of their length and `max_norm`: none is longer than 1.

    No row's scale depends on another row. Rows of zeros stay as they are.
    """
    length = x.norm(dim=1, keepdim=True).clamp_min(max_norm)
    return x / torch.where(length == 0, 1, length)


def augmented(x: Tensor, max_norm: float) -> Tensor:
    """Return (x, 1)/√2 `[n, d + 1]` in float64, x in the unit ball: no row is longer than 1."""
    x = into_unit_ball(x.to(torch.float64), max_norm)
    return torch.cat([x, x.new_ones(len(x), 1)], 1) / math.sqrt(2)


def _digests(x: Tensor, y: Tensor) -> Tensor:
    """Return a 64-bit number for each sample `[n]`, the same on every machine: integer arithmetic wraps around."""
    factors = torch.randint(1, 2**62, (x.shape[1] + 1,), generator=torch.Generator().manual_seed(0)).to(x.device)
    parts = []
    for rows, labels in zip(x.split(256), y.split(256), strict=True):
        bits = rows.to(torch.float64).contiguous().view(torch.int64)
        parts.append((bits * factors[1:]).sum(1) + labels * factors[0])
    return torch.cat(parts)
