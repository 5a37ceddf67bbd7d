"""IGBP: iterative gradient-based projection (Iskander, Radinsky & Belinkov, "Shielded Representations: Protecting
Sensitive Attributes Through Iterative Gradient-Based Projection", Findings of ACL 2023, arXiv 2305.10204).

In each iteration a small network f is trained to read the concept from what the iterations before it left, and every
sample takes one first-order step to where f is undecided, x − f(x) ∇f(x) / ‖∇f(x)‖². Three things are added to the
paper:

* Of two classes that is the whole step. Of K, the step is the shortest one after which, to first order, all K logits
  are equal. With J the Jacobian `[K − 1, d]` of K − 1 orthonormal contrasts c of the logits, it is x − J⁺ c(x); at
  K = 2 the same formula.
* The network sees every class with the same total weight, so that it is undecided where x tells no more than the
  frequencies of the classes do.
* Steps are taken, and networks trained, where x is white (its correlation matrix is shrunk). So a step is least in the
  norm of LEACE. Where x comes as it is, a step removes little of a concept that many correlated features tell:
  `whiten=False`, in units of the features' standard deviations.

There is no guarantee: other networks may read what these do not, also from where the steps lead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from efface.erasure.frozen import FrozenTensors
from efface.erasure.inputs import as_tensor, equal_classes, labelled_rows, standard_units
from efface.erasure.readers import Network, Reading, score, split, train_reader
from efface.erasure.shrinkage import optimal_linear_shrinkage
from efface.moments import as_matrix, as_numbers, working_dtype

_ROWS = 1024
"""At once: each has a Jacobian."""
_FLOOR = 1e-6
"""Of the eigenvalues of the correlation matrix, over the largest."""
_RANK_TOLERANCE = 1e-10
"""Of squared singular values of a Jacobian, computed in float64 from a network in float32."""


@dataclass(frozen=True)
class IgbpEraser(FrozenTensors):
    """Networks, and the step that each takes x to where it is undecided; see `efface.erasure.igbp`."""

    _shapes: ClassVar[dict[str, str]] = {
        "mean": "d",
        "whitening": "de",
        "colouring": "ed",
        "hidden_weight": "the",
        "hidden_bias": "th",
        "output_weight": "tkh",
        "output_bias": "tk",
    }

    mean: Tensor
    """`[d]`"""
    whitening: Tensor
    """`[d, d]`: the networks see (x − mean) W."""
    colouring: Tensor
    """`[d, d]`: the inverse of W, but for features that are constant, which it leaves at their mean."""
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
        cls,
        x: Any,
        z: Any,
        *,
        iterations: int = 10,
        width: int = 64,
        whiten: bool = True,
        weight: Any = None,
        seed: int = 0,
    ) -> "IgbpEraser":
        """Fit on x `[n, d]` and labels z `[n]`.

        It ends after `iterations`, or when a fresh network reads nothing: its log loss on held-out samples, one in four
        of each class, is no better than that of a constant.

        Args:
            x: features: a tensor, a numpy array, a pandas frame or a list.
            z: labels 0 … K − 1, each of at least two samples.
            iterations: how many networks at most.
            width: of the hidden layer.
            whiten: take steps where x is white; if not, where features have a standard deviation of 1.
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
        mean, whitening, colouring = _coordinates(x, w, whiten)
        start = ((x - mean) @ whitening).to(dtype)
        moved, networks, readings = start, list[Network](), list[Reading]()
        inner, held_out = split(y, seed)
        while True:
            network = train_reader(moved, y, w, inner, held_out, width=width, seed=seed + len(networks))
            shift = float((w.to(dtype) @ (moved - start).square().mean(1) / w.sum()).sqrt())
            readings.append(Reading(*score(network(moved[held_out]), y[held_out], w[held_out]), shift))
            if readings[-1].information <= 0 or len(networks) == iterations:
                break
            networks.append(network)
            moved = undecided(network, moved)
        stacked = [torch.stack(tensors) for tensors in zip(*networks, strict=True)]
        empty = [tensor.new_zeros(0, *tensor.shape) for tensor in network]
        units = [tensor.to(dtype) for tensor in (mean, whitening, colouring)]
        parts: Any = [*units, *(stacked or empty), tuple(readings)]
        return cls(*parts)

    def steps(self, x: Any) -> Iterator[Tensor]:
        """Yield x `[..., d]` as each network leaves it, t times, in the dtype of x (the eraser's if x holds integers).

        Raises:
            ValueError: x has another width.
        """
        features = as_numbers(as_tensor(x, "x"), self.mean.dtype)
        rows = as_matrix(features, len(self.mean), "x").to(self.mean.dtype)
        moved = (rows - self.mean) @ self.whitening
        for tensors in zip(*(getattr(self, name) for name in Network._fields), strict=True):
            moved = undecided(Network(*tensors), moved)
            yield (moved @ self.colouring + self.mean).view(features.shape).to(features.dtype)

    def __call__(self, x: Any) -> Tensor:
        """Erase the concept from x `[..., d]`; see `steps`."""
        erased = as_numbers(as_tensor(x, "x"), self.mean.dtype)
        as_matrix(erased, len(self.mean), "x")
        for erased in self.steps(x):  # noqa: B007  (the last is the result)
            pass
        return erased


def _coordinates(x: Tensor, w: Tensor, whiten: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of x `[n, d]` under weights `[n]`, and float64 maps `[d, d]` to the networks' inputs and back."""
    mean, scale = standard_units(x, w)
    scaled, w = (x - mean) / scale, w / w.sum()
    correlation = (scaled * w[:, None]).mT @ scaled
    back = torch.where(correlation.diag() > 0.5, scale, 0)  # a constant feature stays as it is
    if not whiten:
        return mean, (1 / scale).diag(), back.diag()
    values, vectors = torch.linalg.eigh(optimal_linear_shrinkage(correlation, 1 / w.square().sum()))
    roots = values.clamp_min(_FLOOR * values.max()).sqrt()
    return mean, (vectors / roots) @ vectors.mT / scale[:, None], (vectors * roots) @ vectors.mT * back


def undecided(network: Network, x: Tensor) -> Tensor:
    """Move x `[n, d]` by the shortest step after which, to first order, all logits are equal.

    Where the logits do not depend on x, it stays. Cost: O(nKhd); memory 8Kd bytes for each of 1024 rows.
    """
    return torch.cat([_undecided(network, rows) for rows in x.split(_ROWS)]) if len(x) else x


def _undecided(network: Network, x: Tensor) -> Tensor:
    contrasts = _contrasts(len(network.output_bias)).to(x)
    values = (network(x) @ contrasts.mT).double()
    active = functional.linear(x, network.hidden_weight, network.hidden_bias) > 0
    jacobian = ((active[:, None] * (contrasts @ network.output_weight)) @ network.hidden_weight).double()
    squares, basis = torch.linalg.eigh(jacobian @ jacobian.mT)
    inverse = torch.where(squares > _RANK_TOLERANCE * squares[:, -1:], 1 / squares, 0)
    inverse = torch.where(inverse.isfinite(), inverse, 0)
    solved = basis @ (inverse[..., None] * (basis.mT @ values[..., None]))
    moved: Tensor = x - (jacobian.mT @ solved)[..., 0].to(x.dtype)
    return moved


def _contrasts(k: int) -> Tensor:
    """Return an orthonormal basis of what sums to zero, `[k − 1, k]`: Helmert's."""
    rows = torch.tril(torch.ones(k - 1, k, dtype=torch.float64))
    below = torch.arange(1, k, dtype=torch.float64)
    rows[torch.arange(k - 1), torch.arange(1, k)] = -below
    return rows / (below * (below + 1)).sqrt()[:, None]
