"""What all erasers are: frozen dataclasses of tensors that can be moved, saved and loaded."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrozenTensors:
    """A frozen dataclass whose fields are tensors, or None where there is nothing. Other fields are not saved."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same on another device or in another dtype; arguments as for `Tensor.to`."""
        return replace(self, **{name: tensor.to(*args, **kwargs) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, which names the class."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
        Path(path).write_bytes(save(tensors, metadata={"class": type(self).__name__}))

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read what `save` of this class wrote.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                kind = (file.metadata() or {}).get("class")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a saved {cls.__name__} ({error}): fit and save it again") from error
        if kind != cls.__name__:
            raise ValueError(f"{path} holds {kind or 'something else'}, not a saved {cls.__name__}")
        return cls(**tensors)
