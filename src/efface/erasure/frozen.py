"""The base of all erasers: a frozen dataclass of tensors that can be moved, saved, loaded and made a module."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from efface import tensorfiles


@dataclass(frozen=True)
class FrozenTensors:
    """A frozen dataclass whose fields are tensors, or None where there is nothing. Other fields are not saved."""

    _shapes: ClassVar[dict[str, str]]
    """The dimensions of each tensor, a letter for each."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Copy to another device or dtype; arguments as for `Tensor.to`."""
        return replace(self, **{name: tensor.to(*args, **kwargs) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are tensors, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def module(self) -> "EraserModule":
        """Return a module that erases, with a copy of the tensors as its buffers.

        It can stand in `nn.Sequential`, and be moved, compiled and exported with the rest of a network; gradients pass
        through it to x. It is called with the arguments of the eraser: x, and the concept where that is needed.
        """
        return EraserModule(self)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically, with a checksum and the name of the class."""
        tensorfiles.write(path, self.tensors(), kind=type(self).__name__)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read a file that `save` of this class wrote.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        tensors, _ = tensorfiles.read(path, kind=cls.__name__, device=device)
        return cls.rebuild(tensors, str(path))

    @classmethod
    def rebuild(cls, tensors: dict[str, Tensor], place: str) -> Self:
        """Make an object of the tensors that a file holds.

        Raises:
            ValueError: a part is missing, not finite, or does not fit the others; the message begins with `place`.
        """
        try:
            rebuilt = cls(**tensors)
        except TypeError as error:
            raise ValueError(
                f"{place} lacks a part of a saved {cls.__name__} ({error}): fit and save it again"
            ) from error
        sizes: dict[str, int] = {}
        for name, letters in cls._shapes.items():
            if name not in tensors:
                continue
            shape = list(tensors[name].shape)
            known = [sizes.setdefault(letter, size) for letter, size in zip(letters, shape, strict=False)]
            if len(letters) != len(shape) or known != shape:
                raise ValueError(f"{place} holds {name} of shape {shape}, which does not fit the rest: save it again")
            if not bool(torch.isfinite(tensors[name]).all()):
                raise ValueError(f"{place} holds NaN or infinite values in {name}: fit and save it again")
        return rebuilt


class OnBuffers(nn.Module):
    """A module that computes with a frozen dataclass of tensors, which are its buffers of the same names."""

    def _on_buffers(self, kind: type[FrozenTensors], **others: Any) -> Any:
        """Make the dataclass of the buffers as they are now: moved, loaded, or put in their place by a trace.

        Args:
            kind: its class.
            others: fields that are no tensors.
        """
        return kind(**{name: getattr(self, name) for name in kind._shapes if hasattr(self, name)}, **others)


class EraserModule(OnBuffers):
    """An eraser as a module; see `FrozenTensors.module`.

    In a program of `torch.compile` or `torch.export` values are not looked at: a label that is no class is not noticed.
    """

    def __init__(self, eraser: FrozenTensors) -> None:
        super().__init__()
        tensors = eraser.tensors()
        self._kind = type(eraser)
        self._others = {f.name: getattr(eraser, f.name) for f in fields(eraser) if f.name not in tensors}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone())

    @property
    def eraser(self) -> Any:
        """The eraser, which shares the buffers."""
        return self._on_buffers(self._kind, **self._others)

    def forward(self, x: Tensor, *concept: Any) -> Tensor:
        """Erase the concept from x `[..., d]`; `concept` is what the eraser is called with besides."""
        erased: Tensor = self.eraser(x, *concept)
        return erased
