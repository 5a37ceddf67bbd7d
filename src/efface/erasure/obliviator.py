"""Obliviator: gradual erasure against readers that are not linear (Akbari, Afshari & Boddeti, "Obliviator Reveals the
Cost of Nonlinear Guardedness in Concept Erasure", NeurIPS 2025, arXiv 2603.07529).

Each iteration makes z', which the next one starts from, of z, at first the features x:

1. An encoder w = e(z) / ‖e(z)‖ is trained a little: it lowers the dependence of w on the concept, and keeps that on z,
   on x and on the target y, HS(w, concept) − τ_z HS(w, z) − τ_x HS(w, x) − τ_y HS(w, y). HS is the root mean square of
   the covariance of random Fourier features, whose square is HSIC in a Gaussian kernel.
2. Of the functions of w in the kernel's space that have no covariance with the concept, those whose covariance with
   z, x and y is largest are kept: an eigenvalue problem, `efface.erasure.hsic.guarded_functions`. z' are their values,
   of length 1.

What differs from the paper and from its authors' code (github.com/ramin-akbari/Obliviator, from which the values of τ
come):

* z' has no more dimensions than x, and after each iteration a least-squares map takes it back to x, so that features
  keep their width and meaning. A function of z' tells nothing that z' does not; `readings` are of z' itself.
* x comes in units of its standard deviations, and there is no first reduction of its dimension.
* Concept and target are one-hot columns, not Fourier features of these, and samples may have weights.
* x stays as it is through all iterations, where the authors' code puts the first z' in its place.

There is no guarantee: HSIC is lowered, not zero, and estimated from samples. What fresh networks read is measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from efface.erasure.frozen import FrozenTensors
from efface.erasure.hsic import FourierFeatures, cross_covariance, guarded_functions
from efface.erasure.inputs import (
    as_concept,
    as_tensor,
    count_classes,
    equal_classes,
    labelled_rows,
    labels_of,
    standard_units,
)
from efface.erasure.readers import Reading, score, split, train_reader
from efface.moments import as_matrix, as_numbers, working_dtype

_TAU_Z, _TAU_X, _TAU_Y = 0.05, 0.01, 2.0
"""Of the encoder, those that the authors publish; so are the following, of the eigenvalue problem."""
_KEEP_Z, _KEEP_X, _KEEP_Y = 1.0, 0.2, 2.0
_BATCH, _LEARNING_RATE, _DECAY = 1024, 1e-3, 1e-3
_READER_WIDTH = 64


class Stage(NamedTuple):
    """One iteration: from z `[n, d]` to z' `[n, d]`, and back to x."""

    hidden_weight: Tensor
    hidden_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor
    frequencies: Tensor
    phases: Tensor
    centre: Tensor
    functions: Tensor
    decoder: Tensor
    decoded_mean: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return z' of z."""
        phi = FourierFeatures(self.frequencies, self.phases)(encoded(self[:4], z))
        return functional.normalize((phi - self.centre) @ self.functions)

    def decode(self, z: Tensor) -> Tensor:
        """Return x, as far as z' tells it linearly."""
        return z @ self.decoder + self.decoded_mean


@dataclass(frozen=True)
class ObliviatorEraser(FrozenTensors):
    """Encoders and guarded functions of t iterations; see `efface.erasure.obliviator`."""

    _shapes: ClassVar[dict[str, str]] = {
        "mean": "d",
        "scale": "d",
        "hidden_weight": "thd",
        "hidden_bias": "th",
        "output_weight": "tdh",
        "output_bias": "td",
        "frequencies": "trd",
        "phases": "tr",
        "centre": "tr",
        "functions": "trd",
        "decoder": "tdd",
        "decoded_mean": "td",
    }

    mean: Tensor
    """`[d]`"""
    scale: Tensor
    """`[d]`: the first z is (x − mean) / scale."""
    hidden_weight: Tensor
    """`[t, h, d]`, of the encoders; so are the following three."""
    hidden_bias: Tensor
    """`[t, h]`"""
    output_weight: Tensor
    """`[t, d, h]`"""
    output_bias: Tensor
    """`[t, d]`"""
    frequencies: Tensor
    """`[t, r, d]`"""
    phases: Tensor
    """`[t, r]`"""
    centre: Tensor
    """`[t, r]`: the means of the Fourier features."""
    functions: Tensor
    """`[t, r, d]`: coefficients of the guarded functions."""
    decoder: Tensor
    """`[t, d, d]`: back to x in its units."""
    decoded_mean: Tensor
    """`[t, d]`"""
    readings: tuple[Reading, ...] = ()
    """What a fresh network read before each iteration, and after the last: t + 1. Not saved."""

    @classmethod
    def fit(
        cls,
        x: Any,
        z: Any,
        y: Any = None,
        *,
        iterations: int = 10,
        width: int = 256,
        features: int = 1000,
        steps: int = 50,
        weight: Any = None,
        seed: int = 0,
    ) -> "ObliviatorEraser":
        """Fit on x `[n, d]`, labels z `[n]`, which are erased, and labels y `[n]`, which are kept, if given.

        It ends after `iterations`, or when a fresh network reads nothing; see `IgbpEraser.fit`.

        Args:
            x: features: a tensor, a numpy array, a pandas frame or a list.
            z: labels 0 … K − 1, each of at least two samples.
            y: labels.
            iterations: how many at most.
            width: of the encoders' hidden layer.
            features: Fourier features of each kernel, more than K.
            steps: of the encoder in each iteration, with 1024 samples each.
            weight: importance weights `[n]`.
            seed: of the Fourier features, of starts and batches, and of the held-out samples of the readers.

        Cost: for each iteration `steps` steps, O(n features² + features³), and a reader.

        Raises:
            ValueError: shapes do not fit, values are not finite, z is constant, a class has fewer than two samples of
                positive weight, or an option is wrong.
        """
        for name, value in (("iterations", iterations), ("width", width), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        x, labels, weight = labelled_rows(x, z, weight)
        equal = equal_classes(labels, weight, int(labels.max()) + 1)
        if features <= int(labels.max()) + 1:
            raise ValueError(f"features is {features}, but must be more than the {int(labels.max()) + 1} classes of z")
        dtype = working_dtype(x.dtype)
        w = (torch.ones_like(equal) if weight is None else weight).to(dtype)
        mean, scale = standard_units(x, w.double())
        start = ((x - mean) / scale).to(dtype)
        concept = functional.one_hot(labels).to(dtype)
        target = None if y is None else functional.one_hot(_target(y, x)).to(dtype)
        generator = torch.Generator().manual_seed(seed)
        inner, held_out = split(labels, seed)
        moved, erased, stages, readings = start, start, list[Stage](), list[Reading]()
        while True:
            centre, deviation = standard_units(moved, equal)
            seen = ((moved - centre) / deviation).to(dtype)
            reader = train_reader(seen, labels, equal, inner, held_out, width=_READER_WIDTH, seed=seed + len(stages))
            shift = float((w @ (erased - start).square().mean(1) / w.sum()).sqrt())
            readings.append(Reading(*score(reader(seen[held_out]), labels[held_out], equal[held_out]), shift))
            if len(stages) == iterations or (stages and readings[-1].information <= 0):
                break
            data = _Data(moved, start if stages else None, concept, target, w)
            stages.append(_fitted(data, start, width, features, steps, generator))
            moved = stages[-1](moved)
            erased = stages[-1].decode(moved)
        stacked = (torch.stack(tensors) for tensors in zip(*stages, strict=True))
        parts: Any = [mean.to(dtype), scale.to(dtype), *stacked, tuple(readings)]
        return cls(*parts)

    def steps(self, x: Any) -> Iterator[Tensor]:
        """Yield x `[..., d]` after each iteration, t times, in the dtype of x (the eraser's if x holds integers).

        Raises:
            ValueError: x has another width.
        """
        dtype = self.mean.dtype
        features = as_numbers(as_tensor(x, "x"), dtype)
        z = (as_matrix(features, len(self.mean), "x").to(dtype) - self.mean) / self.scale
        for tensors in zip(*(getattr(self, name) for name in Stage._fields), strict=True):
            stage = Stage(*tensors)
            z = stage(z)
            yield (stage.decode(z) * self.scale + self.mean).view(features.shape).to(features.dtype)

    def __call__(self, x: Any) -> Tensor:
        """Erase the concept from x `[..., d]`; see `steps`."""
        *_, erased = self.steps(x)
        return erased


class _Data(NamedTuple):
    """What an iteration is fitted on."""

    z: Tensor
    """`[n, d]`"""
    x: Tensor | None
    """`[n, d]`; None where z is x."""
    concept: Tensor
    """`[n, k]`, one-hot."""
    target: Tensor | None
    """`[n, q]`, one-hot."""
    w: Tensor
    """`[n]`"""


def encoded(encoder: tuple[Tensor, ...], z: Tensor) -> Tensor:
    """Return w `[n, d]`, of length 1, of z `[n, d]`."""
    hidden_weight, hidden_bias, output_weight, output_bias = encoder
    hidden = functional.silu(functional.linear(z, hidden_weight, hidden_bias))
    return functional.normalize(functional.linear(hidden, output_weight, output_bias))


def _fitted(data: _Data, x: Tensor, width: int, r: int, steps: int, generator: torch.Generator) -> Stage:
    """Fit one iteration, and its map back to x `[n, d]`."""
    kept = [(_TAU_Z, _KEEP_Z, FourierFeatures.draw(data.z, r, generator)(data.z))]
    if data.x is not None:
        kept.append((_TAU_X, _KEEP_X, FourierFeatures.draw(data.x, r, generator)(data.x)))
    if data.target is not None:
        kept.append((_TAU_Y, _KEEP_Y, data.target))
    encoder = _encoder(data, [(tau, v) for tau, _, v in kept], width, r, steps, generator)
    embedded = encoded(encoder, data.z)
    features = FourierFeatures.draw(embedded, r, generator)
    phi = features(embedded)
    functions = guarded_functions(phi, data.concept, [(tau, v) for _, tau, v in kept], data.w, x.shape[1])
    centre = data.w @ phi / data.w.sum()
    z = functional.normalize((phi - centre) @ functions)
    gram, share = cross_covariance(z, z, data.w), data.w / data.w.sum()
    decoder = torch.linalg.pinv(gram.double(), rtol=1e-6, hermitian=True).to(z) @ cross_covariance(z, x, data.w)
    parts: Any = (*encoder, *features, centre, functions, decoder, share @ x - share @ z @ decoder)
    return Stage(*parts)


def _encoder(
    data: _Data, kept: list[tuple[float, Tensor]], width: int, r: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Train an encoder; its Fourier features are drawn anew, for the spread that w then has, in each step."""
    d = data.z.shape[1]
    sizes = ((d, (width, d)), (d, (width,)), (width, (d, width)), (width, (d,)))
    encoder = tuple(
        ((2 * torch.rand(*shape, generator=generator) - 1) / fan_in**0.5).to(data.z).requires_grad_()
        for fan_in, shape in sizes
    )
    optimizer = torch.optim.AdamW(encoder, lr=_LEARNING_RATE, weight_decay=_DECAY)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randperm(len(data.z), generator=generator)[:_BATCH].to(data.z.device)
            embedded, w = encoded(encoder, data.z[rows]), data.w[rows]
            phi = FourierFeatures.draw(embedded, r, generator)(embedded)
            loss = _dependence(phi, data.concept[rows], w)
            for tau, v in kept:
                loss = loss - tau * _dependence(phi, v[rows], w)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return tuple(tensor.detach() for tensor in encoder)


def _dependence(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return cross_covariance(u, v, w).square().mean().sqrt()


def _target(y: Any, x: Tensor) -> Tensor:
    """Read labels y `[n]` of x `[n, d]`."""
    given = as_concept(y, "y")
    target = labels_of(given)
    if target is None or len(target) != len(x):
        raise ValueError(f"y has shape {list(given.shape)}, but must be one label for each of the {len(x)} rows of x")
    count_classes(target, "y")
    return target.to(x.device)
