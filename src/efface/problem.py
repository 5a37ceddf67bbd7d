"""What a method sees: features and labels of train, val and pairs, and the head. No test data."""

from dataclasses import dataclass, field, replace
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
    """int64; samples of one value belong together, such as the photographs of one person."""

    def __post_init__(self) -> None:
        lengths = [len(column) for column in self._columns() if column is not None]
        if len(set(lengths)) > 1:
            raise ValueError(f"x, y, a, weight and cluster have {lengths} rows, but must have as many")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor | slice) -> "Features":
        """Select samples, with their weights and clusters.

        Args:
            rows: row numbers `[m]`, a mask `[n]`, or a slice.
        """
        return Features(*(None if t is None else t[rows] for t in self._columns()))  # type: ignore[arg-type]

    def weighted(self, weight: Tensor | None) -> "Features":
        """Return the same samples under other weights `[n]`, or under none.

        Raises:
            ValueError: there is not one weight for each sample.
        """
        if weight is not None and weight.shape != self.y.shape:
            raise ValueError(f"weight has shape {list(weight.shape)}, but must be [{len(self)}], one for each sample")
        return replace(self, weight=weight)

    def __add__(self, other: "Features") -> "Features":
        """Join the samples of both. Clusters are kept if both have them: those of one alone would name no group.

        Raises:
            ValueError: one has weights and the other has none, so that the weights of the whole are not known.
        """
        if (self.weight is None) != (other.weight is None):
            raise ValueError("weight: only one of the two has weights; give them to both, or to the whole afterwards")
        pairs = zip(self._columns(), other._columns(), strict=True)
        return Features(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))  # type: ignore[arg-type]

    def _columns(self) -> tuple[Tensor | None, ...]:
        return self.x, self.y, self.a, self.weight, self.cluster


@dataclass(frozen=True)
class Problem:
    """All that a method may see. It holds no test data.

    Row i of `pairs` and row i of `pairs_cf` are the two members of a counterfactual pair, each with its own `a`.
    """

    train: Features
    val: Features
    pairs: Features
    pairs_cf: Features
    head: nn.Linear
    n_classes: int
    n_attributes: int
    flippable: bool
    """Whether a pair is one sample under two attributes; otherwise it is two samples."""
    seed: int
    device: str
    attribute_columns: tuple[int, ...] | None = None
    """Columns of the inputs that are the attribute itself, where the data set is a table that names them."""
    features_are_inputs: bool = False
    """Whether the base model has no parameters below its head, so that features are the columns of the inputs."""
    per_sample_inputs: bool | None = None
    """Whether the inputs of each sample are a function of that sample alone; None where it is not known."""
    depth: int = 1
    """The features are those before the last `depth` linear layers of the base model."""
    source: "FeatureSource | None" = field(default=None, repr=False)
    """Where further features come from; None if there are none but these."""

    def counterfactual(self, rows: Tensor) -> Features:
        """Return training samples `[k]` under another attribute, which is drawn once for each row of train.

        Their features are computed by this call: pass only the rows that are needed.

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
        """Return the problem at the features before the last m linear layers, and those layers as they were trained.

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
