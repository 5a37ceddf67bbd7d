"""What a method is handed: features and labels of train, val and pairs, and the head. No test data."""

from dataclasses import dataclass, field
from typing import Protocol

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
    depth: int = 1
    """The features are those before the last `depth` linear layers of the base model."""
    source: "FeatureSource | None" = field(default=None, repr=False)
    """Where further features come from; None if there are none but these."""

    def counterfactual(self, rows: Tensor) -> Features:
        """Train rows `[k]` under another a, which is drawn once for each row: features are read when asked for.

        Raises:
            ValueError: a row is out of range, or no counterfactual of a sample exists in these data.
        """
        if not self.flippable or self.source is None:
            raise ValueError("rows: these data hold no counterfactual of a training sample")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.train):
            raise ValueError(
                f"rows go from {int(rows.min())} to {int(rows.max())}, but must lie in 0 … {len(self.train) - 1}"
            )
        return self.source.flip(rows, self.depth)

    def cut(self, m: int) -> "tuple[Problem, nn.Sequential]":
        """The problem at the features before the last m linear layers, and those layers as they were trained.

        Raises:
            ValueError: the model does not end in m linear layers with ReLU between them.
        """
        if m == 1:
            return self, nn.Sequential(self.head)
        if self.source is None:
            raise ValueError(f"m is {m}, but of the model behind these features only the head is known")
        layers = self.source.layers(m)  # first: it says if there are none
        return self.source.problem(m), layers


class FeatureSource(Protocol):
    """The base model behind the features of a problem, and the data that it reads."""

    def flip(self, rows: Tensor, cut: int) -> Features:
        """Return train rows `[k]` under another a, drawn once for each row: features before the last `cut` layers."""
        ...

    def problem(self, cut: int) -> Problem:
        """Return the problem at the features before the last `cut` linear layers."""
        ...

    def layers(self, cut: int) -> nn.Sequential:
        """Return the last `cut` linear layers with the ReLU between each two; ValueError if the model has none such."""
        ...
