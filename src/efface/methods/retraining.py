"""The part of a model that unlearning re-trains: its head, or its last linear layers together."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from efface.debiased import Debiased
from efface.methods.base import NotApplicable
from efface.problem import Features, Problem
from efface.representations import Rectified, Representation
from efface.unlearning.head import Head, head_of, head_parameters
from efface.unlearning.layers import Layers
from efface.unlearning.objective import TrainingObjective

HEAD_TOL, LAYERS_TOL = 1e-6, 1e-4
"""Largest entry of a gradient, in nats per standard deviation of a feature, at which a path's minimum is reached.

Where a penalty λ is all that curves the objective, θ is off by up to 1/λ times as much. At 1e-4, logits of one minimum
found from two starts differed by 0.7 under a λ of 1e-4 of the largest curvature, at 1e-6 by 0.005. That takes 1.4 to
1.5 times as long (7 s instead of 5 for 50,000 samples of 100 features and ten classes). Several layers have no one
minimum.
"""


@dataclass(frozen=True)
class Units:
    """Features in units of their standard deviations, around their means; constant ones are 0."""

    mean: Tensor
    """`[d]` float64; zero for a layer without an intercept, which could not make up for it."""
    inverse: Tensor
    """`[d]` float64: one over the standard deviation, around that mean; 0 where it is 0, up to rounding."""

    @classmethod
    def of(cls, x: Tensor, *, centred: bool = True) -> "Units":
        """Measure those of features `[n, d]`, around their means or around zero."""
        mean = x.mean(0, dtype=torch.float64) * centred
        std = (x - mean.to(x)).square().mean(0, dtype=torch.float64).sqrt()
        constant = std <= 4 * torch.finfo(x.dtype).eps * x.abs().amax(0)
        return cls(mean, torch.where(constant, 0, 1 / std))

    def __call__(self, x: Tensor) -> Tensor:
        """Return `[n, d]` in these units, in the precision of x."""
        return (x - self.mean.to(x)) * self.inverse.to(x)

    def of_parameters(self, weight: Tensor, bias: Tensor | None) -> None:
        """Change the layer that features enter, `[k, d]` and `[k]`, in place: it then maps features in these units."""
        if bias is not None:
            bias += (weight.double() @ self.mean).to(bias)
        weight *= torch.where(self.inverse > 0, 1 / self.inverse, 0).to(weight)

    def undo(self, weight: Tensor, bias: Tensor | None) -> None:
        """Change a difference of two such layers in place into one of layers that map features as they are."""
        weight *= self.inverse.to(weight)
        if bias is not None:
            bias -= (weight.double() @ self.mean).to(bias)


@dataclass(frozen=True)
class Part:
    """Parameters θ that are re-trained, and the problem at the features that enter them."""

    problem: Problem
    """At the features as they are."""
    trainable: Head | Layers
    trained: Tensor
    """θ as the base model was trained, for the features as they are."""
    units: Units | None = None
    """In which θ takes the features; None for as they are."""

    @cached_property
    def theta(self) -> Tensor:
        """θ̂ as the base model was trained, for features in these units."""
        theta = self.trained.clone()
        if self.units is not None:
            self.units.of_parameters(*self.trainable.entrance(theta, self.problem.train.x.shape[1]))
        return theta

    @cached_property
    def train(self) -> Features:
        """Training samples in these units."""
        return self.scaled(self.problem.train)

    @cached_property
    def pairs(self) -> Features:
        """Members of the pairs in these units."""
        return self.scaled(self.problem.pairs)

    @cached_property
    def pairs_cf(self) -> Features:
        """Counterfactual members of the pairs in these units."""
        return self.scaled(self.problem.pairs_cf)

    def scaled(self, data: Features) -> Features:
        """Return samples with their features in these units."""
        return data if self.units is None else replace(data, x=self.units(data.x))

    def as_given(self, theta: Tensor) -> Tensor:
        """Return θ for the features as they are. θ̂ gives the parameters as trained to the last digit."""
        if self.units is None:
            return theta
        moved = theta - self.theta
        self.units.undo(*self.trainable.entrance(moved, self.problem.train.x.shape[1]))
        return self.trained + moved

    def model(self, theta: Tensor) -> Debiased:
        """Return what θ makes of the features as they are. θ̂ gives the base model to the last digit."""
        theta = self.as_given(theta)
        if isinstance(self.trainable, Head):
            return Debiased(represent=Representation(), head=head_of(theta, bias=self.trainable.bias))
        represent, head = _split(self.trainable, theta)
        return Debiased(represent=represent, head=head, cut=self.problem.depth)


def part_of(problem: Problem, layers: int) -> Part:
    """Return the head, or the last `layers` > 1 linear layers, and the problem at the features before them.

    Raises:
        TypeError: the head is not linear.
        NotApplicable: the model does not end in so many linear layers.
    """
    theta = head_parameters(problem.head)  # of several layers too: it checks that the last one is linear
    if layers == 1:
        head = Head(n_classes=problem.n_classes, bias=problem.head.bias is not None, tol=HEAD_TOL)
        return Part(problem, head, theta)
    try:
        problem, stack = problem.cut(layers)
    except ValueError as error:
        raise NotApplicable(f"layers={layers}: {error}") from error
    trainable = Layers(module=stack, tol=LAYERS_TOL)
    return Part(problem, trainable, trainable.parameters())


def standardised(part: Part) -> Part:
    """Return a part whose θ takes features in units of their standard deviations over train and the pairs.

    ‖θ − θ̂‖² is then Σ_j D_j ‖W_j − Ŵ_j‖² + ‖b − b̂‖², with D_j the variance of feature j, W_j its weights and b the
    intercept at the features' means: what the move does to the logits if features were independent, whatever the units
    and zeros of the features. The intercept counts as one more feature of standard deviation 1. A layer without one
    takes mean squares for variances. Of several layers, those after the first are in the units of the network.
    """
    problem = part.problem
    x = torch.cat([problem.train.x, problem.pairs.x, problem.pairs_cf.x])
    centred = part.trainable.entrance(part.trained, x.shape[1])[1] is not None
    return replace(part, units=Units.of(x, centred=centred))


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
