"""What a method is handed, what it returns, and how that is kept."""

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """A representation and its labels: x `[n, d]` float32, y and a `[n]` int64, weights `[n]` or None."""

    x: Tensor
    y: Tensor
    a: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __add__(self, other: "Features") -> "Features":
        """The samples of both, without weights."""
        return Features(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]), torch.cat([self.a, other.a]))


@dataclass(frozen=True)
class Problem:
    """All that a method may see. It holds no test data.

    `pairs` and `pairs_cf` are row by row the two members of each counterfactual pair, each with its own `a`.
    """

    train: Features
    val: Features
    pairs: Features
    pairs_cf: Features
    head: nn.Linear
    n_classes: int
    n_attributes: int
    flippable: bool
    """Whether a pair is one sample under two attributes, and not two samples."""
    seed: int
    device: str
    raw_inputs: bool = False
    """Whether the features are the inputs: nothing that was trained stands between them, as with model=linear."""


class Representation(nn.Module):
    """A fixed map of features; this one leaves them as they are.

    A subclass is made of its tensors alone: `cls(**tensors)` rebuilds it from its state.
    """

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        """Map x `[n, d]`; `a` `[n]` is ignored unless the method uses the attribute at test time."""
        return x


@dataclass(frozen=True)
class Debiased:
    """A debiased model on top of the features: logits are `head(represent(x, a))`, probes read `represent(x, a)`."""

    represent: Representation
    head: nn.Linear
    fitted_on: Features | None = None
    """The features, with their weights, that the method was fitted on; None if on none."""
    info: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        """Logits `[n, K]` of features x `[n, d]`."""
        logits: Tensor = self.head(self.represent(x, a))
        return logits

    def save(self, path: Path) -> None:
        """Write representation and head to one safetensors file; `fitted_on`, `info` and `arrays` are not in it."""
        from safetensors.torch import save

        kind = type(self.represent)
        tensors = {f"represent.{name}": t for name, t in self.represent.state_dict().items()}
        tensors |= {f"head.{name}": t for name, t in self.head.state_dict().items()}
        content = save(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            metadata={"represent": json.dumps([kind.__module__, kind.__qualname__])},
        )
        path.write_bytes(content)

    @classmethod
    def load(cls, path: Path) -> "Debiased":
        """Read what `save` wrote, without unpickling anything.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                module, name = json.loads((file.metadata() or {})["represent"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is not a saved model of efface ({error}): run the job again") from error
        kind = getattr(importlib.import_module(module), name, None)
        if not (isinstance(kind, type) and issubclass(kind, Representation)):
            raise ValueError(f"{path} names {module}.{name}, which is not a Representation")
        own = {key.removeprefix("represent."): t for key, t in tensors.items() if key.startswith("represent.")}
        weight, bias = tensors["head.weight"], tensors.get("head.bias")
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        head.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        return cls(represent=kind(**own).eval(), head=head.requires_grad_(False))


class Method(Protocol):
    """A frozen keyword-only dataclass that checks its options when it is made."""

    uses_attribute_at_test: ClassVar[bool]
    """Whether `represent` needs `a`; marked in every table."""
    small: ClassVar[dict[str, Any]]
    """Options with which a test runs it in under 2 s."""

    def skip(self, problem: Problem) -> str | None:
        """Why the method cannot run on this problem, or None."""
        ...

    def fit(self, problem: Problem) -> Debiased: ...
