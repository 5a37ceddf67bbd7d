"""Split a tensor by labels, work on each group, and put it together again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class GroupedTensor:
    """The groups of a tensor, and how to restore its order."""

    dim: int
    """Dimension along which the tensor was split."""
    groups: list[Tensor]
    """`groups[i]` holds the elements whose label is `labels[i]`."""
    indices: Tensor
    """`[n]`: the permutation that sorted the tensor by label."""
    labels: list[int]
    """The labels that occur, ascending."""

    def coalesce(self, groups: list[Tensor] | None = None) -> Tensor:
        """Put `groups` (those of this object if None) together as one tensor in the original order."""
        return torch.cat(groups or list(self.groups), dim=self.dim).index_select(self.dim, self.indices.argsort())

    def map(self, fn: Callable[[int, Tensor], Tensor]) -> "GroupedTensor":
        """Replace each group by `fn(label, group)`."""
        return replace(self, groups=[fn(label, group) for label, group in self])

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Iterate over pairs of label and group."""
        yield from zip(self.labels, self.groups, strict=True)


def groupby(x: Tensor, key: Tensor, dim: int = 0, *, stable: bool = False) -> GroupedTensor:
    """Split `x` along `dim` by integer labels: one sort, and views onto the sorted tensor.

    Args:
        x: any tensor.
        key: `[x.shape[dim]]` int64 labels.
        dim: dimension to split.
        stable: keep the order of elements within a group; a little slower.

    Raises:
        ValueError: `key` is not of that shape and dtype.
    """
    if key.dtype != torch.int64 or key.shape != (x.shape[dim],):
        raise ValueError(
            f"key has dtype {key.dtype} and shape {list(key.shape)}, but must be int64 of shape [{x.shape[dim]}]"
        )
    ordered, indices = key.sort(stable=stable)
    labels, counts = ordered.unique_consecutive(return_counts=True)
    groups = x.index_select(dim, indices).split(counts.tolist(), dim=dim)
    return GroupedTensor(dim, list(groups), indices, labels.tolist())
