"""The objective of multinomial logistic regression: its loss, gradient, exact Hessian and products with it.

Of two classes also in its reduced form, `BinaryObjective`, with one row of weights instead of two.
"""

import copy
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from efface import newton
from efface.moments import require_finite
from efface.newton import LinearMap


class LinearObjective(ABC):
    """A loss of linear scores θ x with a penalty Σ_j λ_j ‖θ_j − θ₀_j‖² / 2 over columns, and its derivatives.

    Scores and probabilities are `[n, k]`, one class after the other in memory, and x one feature after the other:
    products with few rows of θ, which take nearly all of the time, are then two to three times as fast.
    """

    x: Tensor
    """`[n, d(+1)]` float64"""
    weight: Tensor
    """`[n]`, summing to 1."""
    penalty: Tensor
    """λ_j `[d(+1)]`"""
    centre: Tensor
    """θ₀ `[k, d(+1)]`"""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of θ."""
        return len(self.centre), self.x.shape[1]

    @abstractmethod
    def loss(self, logits: Tensor) -> Tensor:
        """Return the weighted mean loss, without the penalty."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the predicted probabilities `[n, k]`, of which all derivatives are functions."""

    @abstractmethod
    def residual(self, probabilities: Tensor) -> Tensor:
        """Return the derivative of the loss with respect to the logits, `[n, k]`, weights included."""

    @abstractmethod
    def curve(self, probabilities: Tensor) -> LinearMap:
        """Return the second derivative of each sample's own loss with respect to its logits, as a map of `[n, k]`."""

    @abstractmethod
    def spread(self, probabilities: Tensor) -> Tensor:
        """Return how much each sample curves f per ‖x‖², `[n]`: its share of the Hessian's mean diagonal block."""

    @abstractmethod
    def hessian(self, probabilities: Tensor) -> Tensor:
        """Return ∇²f exactly, in the order of `theta.flatten()`; n(kd)² operations."""

    @cached_property
    def x32(self) -> Tensor:
        """x in float32."""
        return self.x.mT.to(torch.float32).mT

    @cached_property
    def length_sq(self) -> Tensor:
        """‖x_i‖² `[n]`"""
        return self.x32.square().sum(1).to(self.x)

    def logits(self, theta: Tensor) -> Tensor:
        """Return `[n, k]`, in 2nkd operations."""
        return (theta @ self.x.mT).mT

    def value(self, theta: Tensor, logits: Tensor) -> Tensor:
        """Return f at θ, whose logits are given."""
        return self.loss(logits) + (self.penalty * (theta - self.centre).square()).sum() / 2

    def gradient(self, theta: Tensor, probabilities: Tensor) -> Tensor:
        """Return ∇f at θ, whose probabilities are given; 2nkd operations."""
        return self.residual(probabilities).mT @ self.x + self.penalty * (theta - self.centre)

    def product(self, probabilities: Tensor, dtype: torch.dtype = torch.float64) -> LinearMap:
        """Return v ↦ ∇²f · v, without forming the Hessian; 4nkd operations for each v, in the given precision."""
        x = self.x if dtype == torch.float64 else self.x32
        curve, weight = self.curve(probabilities.to(dtype)), self.weight.to(dtype)[:, None]

        def times(v: Tensor) -> Tensor:
            scale = v.abs().max().clamp_min(1e-300)  # so that float32 neither overflows nor rounds to 0
            q = weight * curve(((v / scale).to(x) @ x.mT).mT)
            return scale * (q.mT @ x).to(v) + self.penalty * v

        return times

    def largest_curvature(self) -> float:
        """Bound the largest eigenvalue of the loss's Hessian: half that of Σ_i w_i x_i x_iᵀ, whatever θ.

        By power iteration, so that it may be a few per cent too small; 80nd operations.
        """
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(self.x.shape[1], generator=generator, dtype=self.x.dtype).to(self.x)
        return newton.largest_eigenvalue(lambda v: (self.weight * (self.x @ v)) @ self.x, start) / 2

    def at(self, theta: Tensor) -> "LinearPoint":
        """Return f at θ."""
        return LinearPoint(self, theta)


class LinearPoint:
    """A `LinearObjective` at one θ."""

    def __init__(self, objective: LinearObjective, theta: Tensor) -> None:
        self.objective, self.theta = objective, theta
        self.logits = objective.logits(theta)
        self.value = float(objective.value(theta, self.logits))

    @cached_property
    def probabilities(self) -> Tensor:
        """`[n, k]`"""
        return self.objective.probabilities(self.logits)

    @cached_property
    def gradient(self) -> Tensor:
        """∇f, of θ's shape."""
        return self.objective.gradient(self.theta, self.probabilities)

    def product(self, dtype: torch.dtype = torch.float64) -> LinearMap:
        """Return v ↦ ∇²f · v in the given precision."""
        return self.objective.product(self.probabilities, dtype)

    def at(self, theta: Tensor) -> Self:
        """Return the same objective elsewhere."""
        return type(self)(self.objective, theta)


class SoftmaxObjective(LinearObjective):
    """f and its derivatives on one data set. θ is `[K, d]`, or `[K, d + 1]` with the bias in the last column.

    Args:
        x: `[n, d]`; copied to float64.
        y: labels `[n]` in 0 … K − 1.
        n_classes: K; the largest label plus one if None, at least 2.
        weight: importance weights `[n]`, >= 0; normalised here.
        l2: λ >= 0.
        bias: with an intercept.
        penalise_bias: penalise the intercept as the other parameters; all directions are then curved by λ at least.
        centre: θ₀ of the penalty λ/2 ‖θ − θ₀‖², of θ's shape; zero if None.

    Raises:
        ValueError: shapes do not fit, x is not finite, a label is out of range, all weights are zero.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        n_classes: int | None = None,
        weight: Tensor | None = None,
        l2: float = 0.0,
        bias: bool = True,
        penalise_bias: bool = False,
        centre: Tensor | None = None,
    ) -> None:
        if x.ndim != 2 or y.shape != (len(x),) or len(x) == 0:
            raise ValueError(f"x has shape {list(x.shape)} and y {list(y.shape)}: give x [n, d] and y [n], n > 0")
        require_finite(x, "x")
        self.y, self.n_classes = _labels(y.to(x.device), n_classes)
        by_feature = x.new_ones(x.shape[1] + bias, len(x), dtype=torch.float64)
        by_feature[: x.shape[1]] = x.mT
        self.x, self.bias = by_feature.mT, bias
        self.weight = self.x.new_full((len(x),), 1 / len(x))
        if weight is not None:
            if weight.shape != y.shape or not bool((weight >= 0).all()) or not 0 < float(weight.sum()) < math.inf:
                raise ValueError(f"weight must hold {len(x)} finite values >= 0, not all zero")
            self.weight = weight.to(self.x) / weight.to(self.x).sum()
        self._penalised = self.x.new_ones(self.x.shape[1])
        if bias and not penalise_bias:
            self._penalised[-1] = 0
        self.penalty = _checked(l2) * self._penalised
        shape = (self.n_classes, self.x.shape[1])
        if centre is not None and centre.shape != shape:
            raise ValueError(f"centre has shape {list(centre.shape)}, but the parameters have {list(shape)}")
        self.centre = self.x.new_zeros(shape) if centre is None else centre.to(self.x)

    def with_l2(self, l2: float) -> Self:
        """Return the objective under another penalty, on the same data in memory, in float32 too."""
        _ = self.x32
        other = copy.copy(self)
        other.penalty = _checked(l2) * self._penalised
        return other

    def loss(self, logits: Tensor) -> Tensor:
        # The label's own logit is taken off first: of a sure prediction, two large numbers would cancel.
        return self.weight @ (logits - logits.gather(1, self.y[:, None])).mT.logsumexp(0)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.mT.softmax(0).mT

    def residual(self, probabilities: Tensor) -> Tensor:
        residual = probabilities * self.weight[:, None]
        residual[torch.arange(len(self.y), device=self.y.device), self.y] -= self.weight
        return residual

    def curve(self, probabilities: Tensor) -> LinearMap:
        return lambda q: probabilities * (q - (probabilities * q).sum(1, keepdim=True))

    def spread(self, probabilities: Tensor) -> Tensor:
        return self.weight * (1 - probabilities.square().sum(1)) / self.n_classes

    def sample_slopes(self, direction: Tensor, probabilities: Tensor) -> Tensor:
        """Return the slope of each sample's own cross-entropy along a direction of θ's shape, `[n]`.

        Without weight and penalty; 2nKd operations.
        """
        q = self.logits(direction)
        return (probabilities * q).sum(1) - q.gather(1, self.y[:, None])[:, 0]

    def hessian(
        self,
        probabilities: Tensor,
        rows: Tensor | None = None,
        times: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Return ∇²f exactly, `[K(d+1), K(d+1)]` in the order of `theta.flatten()`; n(Kd)² operations.

        Block (k, l) is Xᵀ diag(w p_k (δ_kl − p_l)) X + δ_kl λ. Singular along the directions that add one vector to all
        rows of θ unless these are penalised. With `rows`, these samples' share of it and the penalty; with `times`
        `[len(rows)]`, each sample as if it were there so many times.
        """
        k, d = self.shape
        x, weight = self.x if dtype == torch.float64 else self.x32, self.weight
        if rows is not None:
            x, weight, probabilities = x.mT[:, rows].mT, weight[rows], probabilities[rows]
        if times is not None:
            weight = weight * times
        weight, probabilities = weight.to(dtype), probabilities.to(dtype)
        blocks = x.new_empty(k, d, k, d)
        for i in range(k):
            # One product for the blocks (i, i), (i, i+1), … of this block row.
            right = -probabilities[:, i:, None] * x[:, None]
            right[:, 0] += x
            weighted = x * (weight * probabilities[:, i])[:, None]
            row = (weighted.mT @ right.flatten(1)).view(d, k - i, d)
            blocks[i, :, i:] = row
            blocks[i:, :, i] = row.permute(1, 2, 0)
        hessian = blocks.view(k * d, k * d)
        hessian.diagonal().add_(self.penalty.to(dtype).repeat(k))
        return hessian


class BinaryObjective(LinearObjective):
    """A `SoftmaxObjective` of two classes in the difference v = θ₁ − θ₀ of its rows, `[1, d(+1)]`.

    The loss depends on v alone, and Σ_j λ_j (‖θ₀ⱼ − c₀ⱼ‖² + ‖θ₁ⱼ − c₁ⱼ‖²) / 2 is half of the same penalty on v around
    c₁ − c₀, plus half of that on the sum of the rows around c₀ + c₁. So the minimum has the sum c₀ + c₁ where columns
    are penalised; where they are not, the sum is free.
    """

    def __init__(self, whole: SoftmaxObjective) -> None:
        if whole.n_classes != 2:
            raise ValueError(f"there are {whole.n_classes} classes, but the reduced form is for two")
        self.whole = whole
        self.x, self.weight, self.penalty = whole.x, whole.weight, whole.penalty / 2
        self.centre = (whole.centre[1] - whole.centre[0])[None]
        self._sum = whole.centre.sum(0)
        self._y = whole.y.to(self.x)[:, None]

    @cached_property
    def x32(self) -> Tensor:
        return self.whole.x32

    def loss(self, logits: Tensor) -> Tensor:
        return self.weight @ torch.nn.functional.softplus((1 - 2 * self._y) * logits)[:, 0]

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def residual(self, probabilities: Tensor) -> Tensor:
        return (probabilities - self._y) * self.weight[:, None]

    def curve(self, probabilities: Tensor) -> LinearMap:
        curvature = probabilities * (1 - probabilities)
        return lambda q: curvature * q

    def spread(self, probabilities: Tensor) -> Tensor:
        return self.weight * (probabilities * (1 - probabilities))[:, 0]

    def hessian(self, probabilities: Tensor) -> Tensor:
        """Return the Hessian with respect to v, `[d(+1), d(+1)]`; nd² operations."""
        hessian = (self.x * self.spread(probabilities)[:, None]).mT @ self.x
        hessian.diagonal().add_(self.penalty)
        return hessian

    def reduced(self, theta: Tensor) -> Tensor:
        """Return v of θ `[2, d(+1)]`."""
        return (theta[1] - theta[0])[None]

    def restored(self, v: Tensor, start: Tensor) -> Tensor:
        """Return θ `[2, d(+1)]` of v: its sum of rows is the best one, and that of `start` where all are equal."""
        total = torch.where(self.penalty > 0, self._sum, start.sum(0))
        return torch.cat([total - v, total + v]) / 2

    def whole_gradient(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return ∇f `[2, d(+1)]` of the whole objective at θ, from the gradient at its v."""
        along_sum = self.penalty * (theta.sum(0) - self._sum)
        return torch.cat([along_sum - gradient, along_sum + gradient])


def _labels(y: Tensor, n_classes: int | None) -> tuple[Tensor, int]:
    """Return labels as int64, and K."""
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"y has dtype {y.dtype}, but must hold integer labels")
    y = y.to(torch.int64)
    k = max(int(y.max()) + 1, 2) if n_classes is None else n_classes
    if int(y.min()) < 0 or int(y.max()) >= k:
        raise ValueError(f"y has labels from {int(y.min())} to {int(y.max())}, but they must lie in 0 … {k - 1}")
    return y, k


def _checked(l2: float) -> float:
    if l2 < 0 or not math.isfinite(l2):
        raise ValueError(f"l2 is {l2}, but must be >= 0")
    return l2
