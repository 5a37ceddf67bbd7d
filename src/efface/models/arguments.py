"""What a module's forward is called with, made of the one tensor that a split hands out."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from efface.data.text import some

_LARGEST_ID = 1 << 24
"""Below it every integer is exact in float32, in which splits hand out inputs."""

Example = Tensor | Mapping[str, Tensor]
"""What a module is called with: a tensor, or tensors by the names of its forward's arguments."""


class Arguments(nn.Module):
    """Makes the named arguments of a module's forward out of one tensor, which is all that a split hands out.

    One argument of real numbers, such as `pixel_values`, is that tensor itself. Integers `[n, t]`, such as `input_ids`
    and `attention_mask`, are stacked by `pack` to one tensor `[n, arguments, t]`: float32 holds integers below 2²⁴
    exactly, and so a split's inputs stay one float32 tensor.

    Args:
        names: of the arguments, in the order in which they are stacked.
        stacked: whether they are integers.
    """

    def __init__(self, names: Sequence[str], *, stacked: bool) -> None:
        super().__init__()
        self.names, self.stacked = tuple(names), stacked

    @classmethod
    def of(cls, example: Mapping[str, Tensor]) -> "Arguments":
        """Make those of which `example` has some."""
        stacked = len(example) > 1 or not any(tensor.is_floating_point() for tensor in example.values())
        return cls(list(example), stacked=stacked)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: x[:, i].long() if self.stacked else x for i, name in enumerate(self.names)}

    def pack(self, arguments: Mapping[str, Tensor]) -> Tensor:
        """Return the one tensor that stands for these arguments: int64 `[n, arguments, t]`, or that of the only one.

        Raises:
            ValueError: they are not the arguments of the module, or several are not integers `[n, t]` below 2²⁴.
        """
        if set(arguments) != set(self.names):
            raise ValueError(f"inputs have {some(sorted(arguments))}, but the model takes {', '.join(self.names)}")
        tensors = [arguments[name] for name in self.names]
        if not self.stacked:
            return tensors[0]
        for name, tensor in zip(self.names, tensors, strict=True):
            if tensor.is_floating_point() or tensor.ndim != 2 or tensor.shape != tensors[0].shape:
                raise ValueError(
                    f"{name} is {tensor.dtype} of shape {list(tensor.shape)}, but several inputs of a model must "
                    "all be integers [n, t] of one shape, such as token ids and their mask"
                )
            if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < _LARGEST_ID:
                raise ValueError(
                    f"{name} goes from {int(tensor.min())} to {int(tensor.max())}, but must lie in 0 … 2²⁴ - 1"
                )
        return torch.stack([tensor.long() for tensor in tensors], 1)


class Cast(nn.Module):
    """Gives a module inputs of the type that it takes, such as token ids, where a split hands out float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def as_tensor(example: Example, prepare: nn.Module | None) -> tuple[Tensor, nn.Module]:
    """Return an example as one tensor, and what makes a module's inputs out of such tensors."""
    if isinstance(example, Mapping):
        arguments = prepare if isinstance(prepare, Arguments) else Arguments.of(example)
        return arguments.pack(example), arguments
    if prepare is None:
        prepare = nn.Identity() if example.is_floating_point() else Cast(example.dtype)
    return example, prepare
