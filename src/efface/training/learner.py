"""What is trained: a model, with whatever a way of training puts beside it, and the loss of a batch."""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.devices import Precision, autocast
from efface.models.base import Model


def require_features(model: Model, training: str) -> None:
    """Check that a model has layers below its head.

    Args:
        model: what is to be trained.
        training: the name of the way of training, for the message.

    Raises:
        ValueError: its features are its inputs.
    """
    if not any(True for _ in model.backbone.parameters()):
        raise ValueError(
            f"training={training} shapes the features, but those of this model are its inputs: take model=mlp or "
            "another with layers below the head"
        )


class Objective(Protocol):
    """A loss on train, with the labels and weights that it needs."""

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a batch, from logits `[len(rows), K]` of `rows` of train."""
        ...

    def report(self) -> dict[str, float]:
        """Return metrics of the epoch that is over, for the training history."""
        ...


class CrossEntropy:
    """Mean cross-entropy, each sample times its weight.

    Args:
        y: labels `[n]` of train.
        weight: `[n]` with mean 1, or None.
        device: of the logits.
    """

    def __init__(self, y: Tensor, weight: Tensor | None, device: str) -> None:
        self._y = y.to(device)
        self._weight = None if weight is None else weight.to(device, torch.float32)

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        rows = rows.to(logits.device)
        if self._weight is None:
            return functional.cross_entropy(logits, self._y[rows])
        return (self._weight[rows] * functional.cross_entropy(logits, self._y[rows], reduction="none")).mean()

    def report(self) -> dict[str, float]:
        return {}


class Learner(ABC):
    """A model while it is trained.

    Args:
        model: what is kept in the end.
        beside: networks that are trained with it, and not kept.
        precision: of the products; see `efface.devices`.
        device: where the networks are to be.
    """

    def __init__(self, model: Model, *beside: nn.Module, precision: Precision, device: str) -> None:
        self.model = model
        self.trained = nn.ModuleList([model, *beside]).to(device)
        self._precision, self._device = precision, device

    @abstractmethod
    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, whose gradient is followed, and the model's logits `[len(rows), K]` float32.

        Args:
            x: inputs `[len(rows), ...]` of the batch.
            rows: which samples of train they are.
        """

    def report(self) -> dict[str, float]:
        """Return metrics of the epoch that is over, for the training history."""
        return {}

    def compute(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return what a network, or a part of one, makes of x, float32; computed in the model's precision."""
        with autocast(self._precision, self.model, self._device):
            y: Tensor = module(x)
        return y.float()


class Plain(Learner):
    """A model that minimises an objective of its logits.

    Args:
        model: what is trained.
        objective: the loss.
        options: those of a `Learner`.
    """

    def __init__(self, model: Model, objective: Objective, *, precision: Precision, device: str) -> None:
        super().__init__(model, precision=precision, device=device)
        self._objective = objective

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.compute(self.model, x)
        return self._objective(logits, rows), logits

    def report(self) -> dict[str, float]:
        return self._objective.report()
