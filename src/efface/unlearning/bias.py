"""Bias of a classifier: per sample, and as functions of its parameters that can be differentiated.

A functional holds the features at which it needs logits and makes one metric of them. Its gradient with respect to a
head θ = (W, b) is that with respect to the logits, by autograd, times the features.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

SMOOTHING = 1e-6
"""|t| is replaced by sqrt(t² + this), which has a gradient at 0."""


def counterfactual_bias(logits: Tensor, logits_cf: Tensor, y: Tensor, *, signed: bool = False) -> Tensor:
    """Return |p_y(x, a) − p_y(x, a_cf)| of each pair, `[m]`; its mean is the counterfactual bias.

    Chen et al., "Fast Model Debias with Machine Unlearning", NeurIPS 2023, section 3.2.

    Args:
        logits: `[m, K]` of the samples under their own attribute.
        logits_cf: `[m, K]` of the same samples, or of others with the same label, under another one.
        y: `[m]` the label that both have.
        signed: the difference itself.
    """
    if logits.shape != logits_cf.shape or y.shape != logits.shape[:1]:
        raise ValueError(
            f"logits have shapes {list(logits.shape)} and {list(logits_cf.shape)} and y {list(y.shape)}: "
            "give [m, K], [m, K] and [m]"
        )
    p, p_cf = (z.softmax(1).gather(1, y[:, None])[:, 0] for z in (logits, logits_cf))
    return p - p_cf if signed else (p - p_cf).abs()


def biased(bias: Tensor, delta: float) -> Tensor:
    """Return which samples are biased, |bias| > δ for δ in 0 … 1, as booleans `[m]`."""
    if not 0 <= delta <= 1:
        raise ValueError(f"delta is {delta}, but must be a difference of probabilities, in [0, 1]")
    return bias.abs() > delta


def head_logits(theta: Tensor, x: Tensor) -> Tensor:
    """Return the logits `[m, K]` of a head θ `[K, d]`, or `[K, d + 1]` with the bias last, at x `[m, d]`."""
    x = x.to(theta)
    return x @ theta.mT if theta.shape[1] == x.shape[1] else torch.addmm(theta[:, -1], x, theta[:, :-1].mT)


class Bias(ABC):
    """A bias functional B."""

    x: Tensor
    """`[m, d]`: where it needs logits."""

    @abstractmethod
    def of_logits(self, logits: Tensor) -> Tensor:
        """Return B of the logits `[m, K]` at `x`: a differentiable scalar."""

    def value(self, theta: Tensor) -> float:
        """Return B of a head."""
        return float(self.of_logits(head_logits(theta, self.x)))

    def gradient(self, theta: Tensor) -> Tensor:
        """Return ∇B of a head, of its shape; 4mKd operations."""
        with torch.enable_grad():
            logits = head_logits(theta.detach(), self.x).requires_grad_()
            (slope,) = torch.autograd.grad(self.of_logits(logits), logits)
        gradient = slope.mT @ self.x.to(slope)
        return gradient if gradient.shape == theta.shape else torch.cat([gradient, slope.sum(0)[:, None]], 1)


@dataclass(frozen=True)
class CounterfactualBias(Bias):
    """The mean of `counterfactual_bias` over pairs.

    Args:
        x_own, x_cf: `[m, d]`, the two members of each pair.
        y: `[m]`, their label.
        signed: without the absolute value, as for pairs of one direction.
    """

    x_own: Tensor
    x_cf: Tensor
    y: Tensor
    signed: bool = False

    def __post_init__(self) -> None:
        if len(self.y) == 0:
            raise ValueError("y: there are no pairs, and the bias of none is not defined")
        if self.x_own.shape != self.x_cf.shape or len(self.x_own) != len(self.y):
            raise ValueError(
                f"x_own has shape {list(self.x_own.shape)}, x_cf {list(self.x_cf.shape)} and y {list(self.y.shape)}: "
                "pairs need one row in each"
            )

    @property
    def x(self) -> Tensor:  # type: ignore[override]
        return torch.cat([self.x_own, self.x_cf])

    def of_logits(self, logits: Tensor) -> Tensor:
        logits, logits_cf = logits.tensor_split(2)
        difference = counterfactual_bias(logits, logits_cf, self.y, signed=True)
        return (difference if self.signed else _smooth_abs(difference)).mean()


@dataclass(frozen=True)
class DemographicParity(Bias):
    """How much the mean prediction depends on the attribute.

    The mean of |E[p_c | a] − E[p_c | a']| over classes c and pairs of attribute values: with two classes and two
    values, the absolute statistical parity difference.

    Args:
        x: `[m, d]`
        a: `[m]` attribute, two values or more.
    """

    x: Tensor
    a: Tensor

    def __post_init__(self) -> None:
        _require_two_values(self.a)

    def of_logits(self, logits: Tensor) -> Tensor:
        p = logits.softmax(1)
        return _mean_gap(torch.stack([p[self.a == value].mean(0) for value in self.a.unique()]))


@dataclass(frozen=True)
class EqualOpportunity(Bias):
    """How much the probability of the true label depends on the attribute among samples of one label.

    The mean of |E[p_c | y = c, a] − E[p_c | y = c, a']| over classes c and pairs of attribute values that occur with
    it.

    Args:
        x: `[m, d]`
        y: `[m]` labels.
        a: `[m]` attribute; with one label at least, two values or more.
    """

    x: Tensor
    y: Tensor
    a: Tensor

    def __post_init__(self) -> None:
        if all(len(self.a[self.y == c].unique()) < 2 for c in self.y.unique()):
            raise ValueError("a has one value for every label, and there is nothing to compare: give other samples")

    def of_logits(self, logits: Tensor) -> Tensor:
        p_y = logits.softmax(1).gather(1, self.y[:, None])[:, 0]
        gaps = []
        for c in self.y.unique():
            of_class = self.y == c
            values = self.a[of_class].unique()
            if len(values) > 1:
                gaps.append(_mean_gap(torch.stack([p_y[of_class & (self.a == v)].mean()[None] for v in values])))
        return torch.stack(gaps).mean()


def _smooth_abs(t: Tensor) -> Tensor:
    return (t.square() + SMOOTHING).sqrt()


def _mean_gap(means: Tensor) -> Tensor:
    """Return the mean absolute difference of the rows of `[A, c]`, over pairs of rows and columns."""
    i, j = torch.triu_indices(len(means), len(means), 1)
    return _smooth_abs(means[i] - means[j]).mean()


def _require_two_values(a: Tensor) -> None:
    if len(a.unique()) < 2:
        raise ValueError("a has one value only, so nothing can depend on it: give samples of two or more")
