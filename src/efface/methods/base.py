"""What a method is handed, what it returns, and how that is kept."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """A representation and its labels: x `[n, d]` float32, y and a `[n]` int64, weights and clusters `[n]` or None."""

    x: Tensor
    y: Tensor
    a: Tensor
    weight: Tensor | None = None
    cluster: Tensor | None = None
    """int64, samples of one value belong together (see `efface.data.base.Split`)."""

    def __len__(self) -> int:
        return len(self.y)

    def __add__(self, other: "Features") -> "Features":
        """The samples of both, without weights; clusters are kept if both have them."""
        x, y, a = (torch.cat(both) for both in ((self.x, other.x), (self.y, other.y), (self.a, other.a)))
        if self.cluster is None or other.cluster is None:
            return Features(x, y, a)
        return Features(x, y, a, cluster=torch.cat([self.cluster, other.cluster]))


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
    attribute_columns: tuple[int, ...] | None = None
    """Columns of the inputs that are the attribute itself, where the data set is a table that names them."""
    features_are_inputs: bool = False
    """Whether the base model has no parameters below its head, so that features are the columns of the inputs."""
    flip: Callable[[Tensor], Features] | None = field(default=None, repr=False)
    """Behind `counterfactual`."""
    split_model: "Callable[[int], tuple[Problem, nn.Sequential]] | None" = field(default=None, repr=False)
    """Behind `cut`."""

    def counterfactual(self, rows: Tensor) -> Features:
        """Train rows `[k]` under another a, which is drawn once for each row: features are read when asked for.

        Raises:
            ValueError: a row is out of range, or no counterfactual of a sample exists in these data.
        """
        if not self.flippable or self.flip is None:
            raise ValueError("rows: these data hold no counterfactual of a training sample")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.train):
            raise ValueError(
                f"rows go from {int(rows.min())} to {int(rows.max())}, but must lie in 0 … {len(self.train) - 1}"
            )
        return self.flip(rows)

    def cut(self, m: int) -> "tuple[Problem, nn.Sequential]":
        """The problem at the features before the last m linear layers, and those layers as they were trained.

        Raises:
            ValueError: the model does not end in m linear layers with ReLU between them.
        """
        if m == 1:
            return self, nn.Sequential(self.head)
        if self.split_model is None:
            raise ValueError(f"m is {m}, but of the model behind these features only the head is known")
        return self.split_model(m)


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
    cut: int = 1
    """It takes the features before the last `cut` linear layers of the base model; see `Problem.cut`."""
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
            metadata={"represent": json.dumps([kind.__module__, kind.__qualname__]), "cut": str(self.cut)},
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
                metadata = file.metadata() or {}
                (module, name), cut = json.loads(metadata["represent"]), int(metadata.get("cut", "1"))
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
        return cls(represent=kind(**own).eval(), head=head.requires_grad_(False), cut=cut)


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
