"""The contract of a model."""

from abc import ABC, abstractmethod
from importlib.metadata import version
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class Model(nn.Module):
    """`forward(x) == head(backbone(x))`, K >= 2 logits.

    Args:
        backbone: maps inputs `[n, *input_shape]` to features `[n, d]`.
        head: maps features to logits `[n, K]`.
        pretrained: whether the backbone has weights from elsewhere, and is of use before it is trained here.
        whole: whether the head has such weights too, so that the model is of use as it is.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, *, pretrained: bool = False, whole: bool = False) -> None:
        super().__init__()
        if head.out_features < 2:
            raise ValueError(f"head has {head.out_features} output, but needs a logit for each of two or more classes")
        self.backbone = backbone
        self.head = head
        self.pretrained, self.whole = pretrained, whole

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def cut(self, m: int) -> tuple[nn.Module, nn.Sequential]:
        """Split the model before its last m linear layers; return both parts, the second with its activations.

        Raises:
            ValueError: the model does not end in m linear layers with one ReLU between each two.
        """
        if m == 1:
            return self.backbone, nn.Sequential(self.head)
        parts = [*(self.backbone if isinstance(self.backbone, nn.Sequential) else [self.backbone]), self.head]
        first = len(parts) - (2 * m - 1)
        tail = parts[max(first, 0) :]
        alternate = all(isinstance(a, nn.Linear) != isinstance(b, nn.Linear) for a, b in pairwise(tail))
        if m < 1 or first < 0 or not alternate or not all(isinstance(part, nn.Linear | nn.ReLU) for part in tail):
            raise ValueError(f"m is {m}, but the model does not end in {m} linear layers with a ReLU between each two")
        return nn.Sequential(*parts[:first]), nn.Sequential(*tail)


def lacks_weights(module: nn.Module) -> bool:
    """Tell whether a module has layers of unknown width, such as `nn.LazyLinear`, or weights on the meta device."""
    return any(is_lazy(tensor) or tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


class ModelSource(ABC):
    """The class that a file in conf/model names, of models that are read from files: options that make a `Model`."""

    packages: ClassVar[tuple[str, ...]] = ()
    """Those that hold the network's code: their versions are recorded."""

    def code(self) -> dict[str, Any]:
        """Return what says which code computes the features, for the cache's key: it shares nothing between two."""
        return {"versions": {name: version(name) for name in self.packages}} if self.packages else {}

    def outputs(self) -> tuple[str, ...] | None:
        """Return what the files call the classes, in the order of the outputs; None where they do not say."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest of the files that the model is read from; empty if it is read from none.

        Raises:
            FileNotFoundError: a file is not there.
        """

    @abstractmethod
    def __call__(self, *, input_shape: tuple[int, ...], n_classes: int) -> Model:
        """Build the model.

        Args:
            input_shape: of a sample.
            n_classes: logits of the head.

        Raises:
            ValueError: it does not take such inputs, or the files are those of another model.
        """
