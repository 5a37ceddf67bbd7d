"""Quadratic erasure where the class of a sample is not known: the maps of `QuadraticEraser`, mixed by its posterior.

`QuadraticEraser` moves x of class k to m_k(x), by optimal transport of the class to one mean and one covariance. Here x
moves to Σ_k p(k | x) m_k(x). The posterior is that of the Gaussian mixture with the same class means and shrunk
covariances, and the frequencies of the classes: for such a mixture, for which the maps are made, it is exact, and there
is nothing else to fit. On other data it is often surer than it should be, and wrong with it.

Where all posteriors are one-hot and right, this is `QuadraticEraser`. Elsewhere there is no guarantee, not even against
linear readers: E[p(k | x) m_k(x)] differs between classes. What the classes keep can be erased again, `iterations`
times, each fitted on what those before it left.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from efface.erasure.frozen import FrozenTensors
from efface.erasure.inputs import as_tensor, equal_classes, labelled_rows
from efface.erasure.quadratic import QuadraticFitter
from efface.moments import as_matrix, as_numbers, working_dtype

_FLOOR = 1e-7
"""Of the eigenvalues of a covariance, over the largest of all classes: a constant feature has no density."""


class PosteriorReading(NamedTuple):
    """What the posteriors read on the samples fitted on, under their weights, and how far these have moved."""

    information: float
    """Bits, at most those of the concept; below 0 where the posteriors are surer than they should be."""
    accuracy: float
    shift: float
    """Root of the mean squared distance of the move so far, over that of the samples from their mean."""


@dataclass(frozen=True)
class PosteriorQuadraticEraser(FrozenTensors):
    """Moves x by the transports of all classes, weighted by their posteriors; see `efface.erasure.quadratic_free`."""

    _shapes: ClassVar[dict[str, str]] = {
        "class_means": "tkd",
        "global_means": "td",
        "ot_maps": "tkdd",
        "whitening": "tkdd",
        "log_scales": "tk",
    }

    class_means: Tensor
    """`[t, k, d]`, of t iterations; so are the following."""
    global_means: Tensor
    """`[t, d]`: the mean to which all classes are moved."""
    ot_maps: Tensor
    """`[t, k, d, d]`"""
    whitening: Tensor
    """`[t, k, d, d]`: W of each class, Wᴴ W its inverse covariance."""
    log_scales: Tensor
    """`[t, k]`: the logarithm of a class's frequency and of its density's constant, but for one term."""
    readings: tuple[PosteriorReading, ...] = ()
    """Before each iteration: t. Not saved."""

    @classmethod
    def fit(cls, x: Any, z: Any, *, iterations: int = 1, weight: Any = None) -> "PosteriorQuadraticEraser":
        """Fit on x `[n, d]` and labels z `[n]`.

        Args:
            x: features: a tensor, a numpy array, a pandas frame or a list.
            z: labels 0 … K − 1, each of at least two samples.
            iterations: how often.
            weight: importance weights `[n]`.

        Cost: for each iteration, that of `QuadraticFitter`, and 2 n K d² for the data. Memory of the result 16 K d²
        bytes for each iteration, if the data are float64.

        Raises:
            ValueError: shapes do not fit, values are not finite, z is constant, a class has fewer than two samples of
                positive weight, or iterations is less than 1.
        """
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}, but must be at least 1")
        x, y, weight = labelled_rows(x, z, weight)
        equal_classes(y, weight, int(y.max()) + 1)
        moved = start = x.to(working_dtype(x.dtype))
        w = torch.ones_like(y, dtype=torch.float64) if weight is None else weight.double()
        w = w / w.sum()
        stages, readings = list[_Stage](), list[PosteriorReading]()
        spread = (w @ (start.double() - w @ start.double()).square()).sum()
        for _ in range(iterations):
            fitter = QuadraticFitter.fit(moved, y, weight=weight, shrinkage=True, weighted_mean=True)
            stages.append(_Stage.of(fitter))
            shift = (w @ (moved - start).double().square()).sum() / spread
            readings.append(PosteriorReading(*_score(stages[-1].posterior(moved), y, w), float(shift.sqrt())))
            moved = stages[-1](moved)
        parts: Any = [*(torch.stack(tensors) for tensors in zip(*stages, strict=True)), tuple(readings)]
        return cls(*parts)

    def posterior(self, x: Any) -> Tensor:
        """Return the probabilities `[..., k]` of the classes of x `[..., d]` before anything is erased."""
        features, rows = self._rows(x)
        return self._stages()[0].posterior(rows).view(*features.shape[:-1], -1)

    def steps(self, x: Any) -> Iterator[Tensor]:
        """Yield x `[..., d]` after each iteration, t times, in the dtype of x (the eraser's if x holds integers).

        Raises:
            ValueError: x has another width.
        """
        features, rows = self._rows(x)
        for stage in self._stages():
            rows = stage(rows)
            yield rows.view(features.shape).to(features.dtype)

    def __call__(self, x: Any) -> Tensor:
        """Erase the concept from x `[..., d]`; see `steps`."""
        *_, erased = self.steps(x)
        return erased

    def _rows(self, x: Any) -> tuple[Tensor, Tensor]:
        dtype = self.class_means.dtype
        features = as_numbers(as_tensor(x, "x"), dtype)
        return features, as_matrix(features, self.class_means.shape[2], "x").to(dtype)

    def _stages(self) -> "list[_Stage]":
        tensors = (self.class_means, self.global_means, self.ot_maps, self.whitening, self.log_scales)
        return [_Stage(*parts) for parts in zip(*tensors, strict=True)]


class _Stage(NamedTuple):
    """One iteration; the tensors of `PosteriorQuadraticEraser` without their first dimension."""

    class_means: Tensor
    global_mean: Tensor
    ot_maps: Tensor
    whitening: Tensor
    log_scales: Tensor

    @classmethod
    def of(cls, fitter: QuadraticFitter) -> "_Stage":
        eraser = fitter.eraser
        values, vectors = torch.linalg.eigh(fitter.sigma_xx.double())
        values = values.clamp_min(_FLOOR * values.max())
        whitening = vectors.mT / values.sqrt()[..., None]
        log_scales = (fitter.n.double() / fitter.n.sum()).log() - values.log().sum(1) / 2
        # A constant of all classes does not count, and would cost float32 its digits.
        tail = (whitening, log_scales - log_scales.max())
        return cls(eraser.class_means, eraser.global_mean, eraser.ot_maps, *(t.to(eraser.ot_maps) for t in tail))

    def posterior(self, x: Tensor) -> Tensor:
        """Return probabilities `[n, k]` of the classes of x `[n, d]`."""
        squares = [
            ((x - mean) @ whitening.mH).square().sum(1)
            for mean, whitening in zip(self.class_means, self.whitening, strict=True)
        ]
        return (self.log_scales - torch.stack(squares, 1) / 2).softmax(1)

    def __call__(self, x: Tensor) -> Tensor:
        """Move x `[n, d]`."""
        moved = torch.zeros_like(x)
        for p, mean, transport in zip(self.posterior(x).mT, self.class_means, self.ot_maps, strict=True):
            moved += p[:, None] * ((x - mean) @ transport.mH)
        return moved + self.global_mean


def _score(posterior: Tensor, y: Tensor, w: Tensor) -> tuple[float, float]:
    """Return bits and accuracy of probabilities `[n, k]`, under weights `[n]` that sum to 1."""
    share = torch.bincount(y, w)
    entropy = -torch.special.xlogy(share, share).sum()
    # A probability of 0 in float32 is at least the smallest number there is.
    chosen = posterior.double().gather(1, y[:, None])[:, 0].clamp_min(torch.finfo(posterior.dtype).tiny)
    information = float(entropy + w @ chosen.log()) / math.log(2)
    return information, float(w @ (posterior.argmax(1) == y).double())
