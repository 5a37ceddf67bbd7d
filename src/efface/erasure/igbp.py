"""IGBP: iterative gradient-based projection (Iskander, Radinsky & Belinkov, "Shielded Representations: Protecting
Sensitive Attributes Through Iterative Gradient-Based Projection", Findings of ACL 2023, arXiv 2305.10204).

In each iteration a small network f is trained to read the concept from what the iterations before it left, and every
sample takes one first-order step to where f is undecided, x − f(x) ∇f(x) / ‖∇f(x)‖². Three things are added to the
paper:

* It has two classes. Of K, the step is the shortest one after which, to first order, all K logits are equal. With J the
  Jacobian `[K − 1, d]` of K − 1 orthonormal contrasts c of the logits, it is x − J⁺ c(x); at K = 2 the same formula.
* The network sees every class with the same total weight, so that it is undecided where x tells no more than the
  frequencies of the classes do. The paper's classes are nearly as frequent as each other.
* Steps are taken on features in units of their standard deviations, so that their units do not matter.

There is no guarantee: other networks may read what these do not, also from where the steps lead.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from efface.erasure.frozen import FrozenTensors
from efface.erasure.inputs import as_tensor, equal_classes, labelled_rows
from efface.moments import as_matrix, as_numbers, working_dtype

_BATCH, _LEARNING_RATE, _DECAY = 128, 2e-3, 1e-2
_EPOCHS, _PATIENCE, _STEPS = 100, 5, 60
"""An epoch of few samples is a few steps: at least `_STEPS` without a gain end the training."""
_ROWS = 1024
"""At once: each has a Jacobian."""
_RANK_TOLERANCE = 1e-10
"""Of squared singular values of a Jacobian, computed in float64 from a network in float32."""


class Network(NamedTuple):
    """One hidden layer of ReLU, from features to K logits."""

    hidden_weight: Tensor
    """`[h, d]`"""
    hidden_bias: Tensor
    """`[h]`"""
    output_weight: Tensor
    """`[K, h]`"""
    output_bias: Tensor
    """`[K]`"""

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits `[n, K]` of x `[n, d]`."""
        hidden = functional.linear(x, self.hidden_weight, self.hidden_bias).relu()
        return functional.linear(hidden, self.output_weight, self.output_bias)

    def undecided(self, x: Tensor) -> Tensor:
        """Move x `[n, d]` by the shortest step after which, to first order, all logits are equal.

        Where the logits do not depend on x, it stays. Cost: O(nKhd); memory 8Kd bytes for each of 1024 rows.
        """
        return torch.cat([self._undecided(rows) for rows in x.split(_ROWS)]) if len(x) else x

    def _undecided(self, x: Tensor) -> Tensor:
        contrasts = _contrasts(len(self.output_bias)).to(x)
        values = (self(x) @ contrasts.mT).double()
        active = functional.linear(x, self.hidden_weight, self.hidden_bias) > 0
        jacobian = ((active[:, None] * (contrasts @ self.output_weight)) @ self.hidden_weight).double()
        squares, basis = torch.linalg.eigh(jacobian @ jacobian.mT)
        inverse = torch.where(squares > _RANK_TOLERANCE * squares[:, -1:], 1 / squares, 0)
        inverse = torch.where(inverse.isfinite(), inverse, 0)
        solved = basis @ (inverse[..., None] * (basis.mT @ values[..., None]))
        return x - (jacobian.mT @ solved)[..., 0].to(x.dtype)


class Reading(NamedTuple):
    """What one network reads on held-out samples, every class with the same weight, and how far samples have moved."""

    information: float
    """Bits, at most log2 K; 0 where a constant does as well."""
    accuracy: float
    """Mean recall of the classes, 1 / K by chance."""
    shift: float
    """Root mean square, over samples and features, of the move so far, in standard deviations of the features."""


@dataclass(frozen=True)
class IgbpEraser(FrozenTensors):
    """Networks, and the step that each takes x to where it is undecided; see `efface.erasure.igbp`."""

    _shapes: ClassVar[dict[str, str]] = {
        "mean": "d",
        "scale": "d",
        "hidden_weight": "thd",
        "hidden_bias": "th",
        "output_weight": "tkh",
        "output_bias": "tk",
    }

    mean: Tensor
    """`[d]`"""
    scale: Tensor
    """`[d]`: the networks see (x − mean) / scale."""
    hidden_weight: Tensor
    """`[t, h, d]`, of the t networks in their order; so are the following."""
    hidden_bias: Tensor
    """`[t, h]`"""
    output_weight: Tensor
    """`[t, K, h]`"""
    output_bias: Tensor
    """`[t, K]`"""
    readings: tuple[Reading, ...] = ()
    """What a fresh network read before each step, and after the last: t + 1. Not saved."""

    @classmethod
    def fit(
        cls, x: Any, z: Any, *, iterations: int = 10, width: int = 64, weight: Any = None, seed: int = 0
    ) -> "IgbpEraser":
        """Fit on x `[n, d]` and labels z `[n]`.

        It ends after `iterations`, or when a fresh network reads nothing: its log loss on held-out samples, one in four
        of each class, is no better than that of a constant.

        Args:
            x: features: a tensor, a numpy array, a pandas frame or a list.
            z: labels 0 … K − 1, each of at least two samples.
            iterations: how many networks at most.
            width: of the hidden layer.
            weight: importance weights `[n]`. Their ratios count within a class only.
            seed: of the split, of the starts and of the batches.

        Cost: that of training `iterations` + 1 networks, of 100 epochs each at most, and of applying them.

        Raises:
            ValueError: shapes do not fit, values are not finite, z is constant, a class has fewer than two samples or
                no weight, or an option is wrong.
        """
        for name, value in (("iterations", iterations), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        x, y, weight = labelled_rows(x, z, weight)
        w = equal_classes(y, weight, int(y.max()) + 1)
        dtype = working_dtype(x.dtype)
        mean, scale = _units(x, w)
        start = ((x - mean) / scale).to(dtype)
        moved, networks, readings = start, list[Network](), list[Reading]()
        inner, held_out = _split(y, seed)
        while True:
            network = _trained(moved, y, w, inner, held_out, width=width, seed=seed + len(networks))
            shift = float((w.to(dtype) @ (moved - start).square().mean(1) / w.sum()).sqrt())
            readings.append(Reading(*_score(network(moved[held_out]), y[held_out], w[held_out]), shift))
            if readings[-1].information <= 0 or len(networks) == iterations:
                break
            networks.append(network)
            moved = network.undecided(moved)
        stacked = [torch.stack(tensors) for tensors in zip(*networks, strict=True)]
        empty = [tensor.new_zeros(0, *tensor.shape) for tensor in network]
        return cls(mean.to(dtype), scale.to(dtype), *(stacked or empty), readings=tuple(readings))

    def steps(self, x: Any) -> Iterator[Tensor]:
        """Yield x `[..., d]` as each network leaves it, t times, in the dtype of x (the eraser's if x holds integers).

        Raises:
            ValueError: x has another width.
        """
        features = as_numbers(as_tensor(x, "x"), self.mean.dtype)
        rows = as_matrix(features, len(self.mean), "x").to(self.mean.dtype)
        moved = (rows - self.mean) / self.scale
        names = [field.name for field in fields(self)][2:6]
        for tensors in zip(*(getattr(self, name) for name in names), strict=True):
            moved = Network(*tensors).undecided(moved)
            yield (moved * self.scale + self.mean).view(features.shape).to(features.dtype)

    def __call__(self, x: Any) -> Tensor:
        """Erase the concept from x `[..., d]`; see `steps`."""
        erased = as_numbers(as_tensor(x, "x"), self.mean.dtype)
        as_matrix(erased, len(self.mean), "x")
        for erased in self.steps(x):  # noqa: B007  (the last is the result)
            pass
        return erased


def _contrasts(k: int) -> Tensor:
    """Return an orthonormal basis of what sums to zero, `[k − 1, k]`: Helmert's."""
    rows = torch.tril(torch.ones(k - 1, k, dtype=torch.float64))
    below = torch.arange(1, k, dtype=torch.float64)
    rows[torch.arange(k - 1), torch.arange(1, k)] = -below
    return rows / (below * (below + 1)).sqrt()[:, None]


def _units(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation `[d]` float64 of x `[n, d]`; 1 where it is constant."""
    w = w / w.sum()
    mean = w @ x.double()
    scale = (w @ (x.double() - mean).square()).sqrt()
    return mean, torch.where(scale > 1e-12 * scale.max(), scale, 1)


def _split(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Split samples at random, within classes y `[n]`: row numbers of three in four, and of the others."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
    order = order[torch.argsort(y[order], stable=True)]
    counts = torch.bincount(y)
    rank = torch.arange(len(y), device=y.device) - (counts.cumsum(0) - counts)[y[order]]
    held_out = rank < (counts / 4).ceil()[y[order]]
    return order[~held_out], order[held_out]


def _trained(
    x: Tensor, y: Tensor, w: Tensor, inner: Tensor, held_out: Tensor, *, width: int, seed: int
) -> Network:
    """Train a network on rows `inner` of x `[n, d]`, and return it as it was when it did best on `held_out`.

    By log loss under weights w `[n]`, with AdamW from a start that `seed` draws; deterministic.
    """
    generator = torch.Generator().manual_seed(seed)
    network = _drawn(x, width, int(y.max()) + 1, generator)
    optimizer = torch.optim.AdamW(network, lr=_LEARNING_RATE, weight_decay=_DECAY, fused=True)
    batches = math.ceil(len(inner) / _BATCH)
    epochs, patience = max(_EPOCHS, 600 // batches), max(_PATIENCE, _STEPS // batches)
    unit, best_loss, best, waited = w / w.mean(), math.inf, network, 0
    for _ in range(epochs):
        with torch.enable_grad():
            for rows in inner[torch.randperm(len(inner), generator=generator).to(inner.device)].split(_BATCH):
                losses = functional.cross_entropy(network(x[rows]), y[rows], reduction="none")
                optimizer.zero_grad(set_to_none=True)
                (unit[rows] @ losses.double() / len(rows)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        with torch.no_grad():
            loss = float(w[held_out] @ functional.cross_entropy(network(x[held_out]), y[held_out], reduction="none").double())
        if loss < best_loss:
            best_loss, best, waited = loss, Network(*(tensor.detach().clone() for tensor in network)), 0
        else:
            waited += 1
            if waited == patience:
                break
    return Network(*(tensor.detach() for tensor in best))


def _drawn(x: Tensor, width: int, k: int, generator: torch.Generator) -> Network:
    """Draw the start of a network of x `[n, d]`: uniform within 1 / √fan-in, as `nn.Linear` does."""

    def uniform(fan_in: int, *shape: int) -> Tensor:
        drawn = (2 * torch.rand(*shape, generator=generator) - 1) / fan_in**0.5
        return drawn.to(x).requires_grad_()

    d = x.shape[1]
    return Network(uniform(d, width, d), uniform(d, width), uniform(width, k, width), uniform(width, k))


def _score(logits: Tensor, y: Tensor, w: Tensor) -> tuple[float, float]:
    """Return bits, 0 at least, and mean recall, both of equally weighted classes, of logits `[n, K]`."""
    k = logits.shape[1]
    w = w / (torch.bincount(y, w, minlength=k)[y] * k)
    loss = float(w @ functional.cross_entropy(logits.double(), y, reduction="none"))
    accuracy = float(w @ (logits.argmax(1) == y).double())
    return max(math.log2(k) - loss / math.log(2), 0.0), accuracy
