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
        dtypes: of those, such as bool for a mask; int64 if None.
        n_tokens: that the module knows, of which the first argument holds the numbers; None where it is not known.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        stacked: bool,
        dtypes: Sequence[torch.dtype] | None = None,
        n_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.names, self.stacked, self.n_tokens = tuple(names), stacked, n_tokens
        self.dtypes = tuple(dtypes or [torch.int64] * len(self.names))

    @classmethod
    def of(cls, example: Mapping[str, Tensor]) -> "Arguments":
        """Make those of which `example` has some."""
        stacked = len(example) > 1 or not any(tensor.is_floating_point() for tensor in example.values())
        return cls(list(example), stacked=stacked, dtypes=[tensor.dtype for tensor in example.values()])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self.n_tokens is not None and not torch.compiler.is_compiling() and float(x[:, 0].max()) >= self.n_tokens:
            raise ValueError(
                f"inputs hold the token id {int(x[:, 0].max())}, but the model knows those below {self.n_tokens}: name "
                "its own tokenizer with dataset.tokenizer"
            )
        kinds = zip(self.names, self.dtypes, strict=True)
        return {name: x[:, i].to(dtype) if self.stacked else x for i, (name, dtype) in enumerate(kinds)}

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
            _require_exact(tensor, name)
        return torch.stack([tensor.long() for tensor in tensors], 1)


class Cast(nn.Module):
    """Gives a module inputs of the type that it takes, such as token ids, where a split hands out float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def as_tensor(example: Example, prepare: nn.Module | None) -> tuple[Tensor, nn.Module]:
    """Return an example as one tensor, and what makes a module's inputs out of such tensors.

    Raises:
        ValueError: it is no tensor of real numbers or integers, nor some by name, or it has no rows.
    """
    tensors = list(example.values()) if isinstance(example, Mapping) else [example]
    if not tensors or not all(isinstance(t, Tensor) and t.ndim and len(t) and not t.is_complex() for t in tensors):
        raise ValueError(
            f"example is a {type(example).__name__} that cannot be used: give a tensor of one or more samples, real "
            "numbers or integers, or such tensors by the names of the module's arguments"
        )
    if isinstance(example, Mapping):
        arguments = prepare if isinstance(prepare, Arguments) else Arguments.of(example)
        return arguments.pack(example), arguments
    if prepare is None:
        prepare = nn.Identity() if example.is_floating_point() else Cast(example.dtype)
    if not example.is_floating_point():
        _require_exact(example, "example")
    return example, prepare


def _require_exact(tensor: Tensor, name: str) -> None:
    """ValueError if integers are negative, or so large that float32 does not hold them exactly."""
    if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < _LARGEST_ID:
        raise ValueError(f"{name} goes from {int(tensor.min())} to {int(tensor.max())}, but must lie in 0 … 2²⁴ - 1")
