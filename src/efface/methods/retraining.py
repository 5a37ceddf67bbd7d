"""The part of a model that unlearning re-trains: its head, or its last linear layers together."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from efface.methods.base import NotApplicable
from efface.problem import Problem
from efface.representations import Rectified, Representation
from efface.unlearning.head import Head, head_of, head_parameters
from efface.unlearning.layers import Layers
from efface.unlearning.objective import TrainingObjective


@dataclass(frozen=True)
class Part:
    """Parameters θ that are re-trained, and the problem at the features that enter them."""

    problem: Problem
    trainable: Head | Layers
    theta: Tensor
    """θ as the base model was trained."""

    def model(self, theta: Tensor) -> tuple[Representation, nn.Linear]:
        """Return what θ makes of the features, and the head on it."""
        if isinstance(self.trainable, Head):
            return Representation(), head_of(theta, bias=self.trainable.bias)
        return _split(self.trainable, theta)


def part_of(problem: Problem, layers: int) -> Part:
    """Return the head, or the last `layers` > 1 linear layers, and the problem at the features before them.

    Raises:
        TypeError: the head is not linear.
        NotApplicable: the model does not end in so many linear layers.
    """
    theta = head_parameters(problem.head)  # of several layers too: it checks that the last one is linear
    if layers == 1:
        return Part(problem, Head(n_classes=problem.n_classes, bias=problem.head.bias is not None), theta)
    try:
        problem, stack = problem.cut(layers)
    except ValueError as error:
        raise NotApplicable(f"layers={layers}: {error}") from error
    trainable = Layers(module=stack)
    return Part(problem, trainable, trainable.parameters())


def training_objective(problem: Problem, damping: float) -> TrainingObjective:
    """Return the training objective on train with λ = damping · E[x_j²], the mean over samples and features."""
    x = problem.train.x
    return TrainingObjective(x=x, y=problem.train.y, l2=damping * float(x.double().square().mean()))


def _split(layers: Layers, theta: Tensor) -> tuple[Representation, nn.Linear]:
    """Split re-trained layers into those below the head, and the head."""
    tensors = layers.tensors(theta)
    *inner, last = (name for name, layer in layers.module.named_children() if isinstance(layer, nn.Linear))
    rectified = {
        f"{kind}_{i}": tensors[f"{name}.{kind}"].clone()
        for i, name in enumerate(inner)
        for kind in ("weight", "bias")
        if f"{name}.{kind}" in tensors
    }
    columns = [tensors[f"{last}.weight"]]
    bias = tensors.get(f"{last}.bias")
    if bias is not None:
        columns.append(bias[:, None])
    return Rectified(**rectified), head_of(torch.cat(columns, 1), bias=bias is not None)
