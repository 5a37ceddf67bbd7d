"""EnD: features in which samples of one attribute are orthogonal, and those of one label alike under any attribute.

Tartaglione, Barbano & Grangetto, "EnD: entangling and disentangling deep representations for bias correction", CVPR
2021.
"""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.data.base import Dataset
from efface.data.groups import group_counts
from efface.models.base import Model
from efface.options import Ge, options
from efface.training.learner import Learner, require_features
from efface.training.stepped import Stepped


def disentangling(features: Tensor, a: Tensor) -> Tensor:
    """Return R⊥ of features `[m, d]`: how far samples of equal attributes a `[m]` are from orthogonal, in 0 … 1.

    Section 3 of the paper, as in its code: for each attribute the cosines of its pairs of samples are summed; of these
    sums the magnitudes are added up, and divided by the number of all such pairs. Zero where there is none.
    """
    pairs = torch.ones(len(a), len(a), device=features.device).triu(1)
    per_attribute = functional.one_hot(a).to(features.dtype)
    cosines = _cosines(features) * pairs
    sums = (per_attribute * (cosines @ per_attribute)).sum(0)
    counts = (per_attribute * (pairs @ per_attribute)).sum()
    return sums.abs().sum() / counts.clamp_min(1)


def entangling(features: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """Return R∥ of features `[m, d]`: how unlike samples of equal labels y and unequal attributes a are, in 0 … 1.

    Section 3 of the paper, as in its code: 1 minus the mean of (1 + cosine) / 2 over such pairs; zero where there is
    none.
    """
    pairs = ((y[:, None] == y) & (a[:, None] != a)).to(features.dtype)
    counts = pairs.sum()
    return ((1 - _cosines(features)) / 2 * pairs).sum() / counts.clamp_min(1)


def _cosines(features: Tensor) -> Tensor:
    normalised = functional.normalize(features, dim=1)
    return normalised @ normalised.T


class UnitLength(nn.Module):
    """Scales features `[n, d]` to length one, so that the head sees no more of them than the cosines."""

    def forward(self, features: Tensor) -> Tensor:
        return functional.normalize(features, dim=1)


class Entangled(Learner):
    """The objective of the paper, CE + α R⊥ + β R∥, of the features before the head.

    Args:
        model: what is trained.
        dataset: for labels and attributes of train.
        training: the options.
        device: where the model is to be.
    """

    def __init__(self, model: Model, dataset: Dataset, training: "End", *, device: str) -> None:
        super().__init__(model, precision=training.precision, device=device)
        self._y, self._a = dataset.train.y.to(device), dataset.train.a.to(device)
        self._alpha, self._beta = training.alpha, training.beta
        self._terms: list[Tensor] = []

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows.to(x.device)
        y, a = self._y[rows], self._a[rows]
        features = self.compute(self.model.backbone, x)
        logits = self.compute(self.model.head, features)
        apart, alike = disentangling(features, a), entangling(features, y, a)
        self._terms.append(torch.stack([apart, alike]).detach())
        return functional.cross_entropy(logits, y) + self._alpha * apart + self._beta * alike, logits

    def report(self) -> dict[str, float]:
        """Return the means of both terms over the batches of the epoch."""
        means, self._terms = torch.stack(self._terms).mean(0).tolist(), []
        return dict(zip(["disentangling", "entangling"], means, strict=True))


@options
class End(Stepped):
    """EnD: cross-entropy with two regularisers of the features. It needs the attribute of every sample of train.

    The features that reach the head have length one, as in the paper's network. Without that the terms hardly change
    what the network learns.

    Args:
        weight_decay: of the optimiser, as published.
        alpha: α of the disentangling term; 0.1 in the paper's code, which then looks for it in 0 … 1 on val.
        beta: β of the entangling term, likewise.
    """

    weight_decay: Annotated[float, Ge(0)] = 1e-4
    alpha: Annotated[float, Ge(0)] = 0.1
    beta: Annotated[float, Ge(0)] = 0.1

    def network(self, model: Model) -> Model:
        """Return the model with features of length one.

        Raises:
            ValueError: the features of the model are its inputs.
        """
        require_features(model, "end")
        return Model(nn.Sequential(model.backbone, UnitLength()), model.head, pretrained=model.pretrained)

    def require(self, model: Model, dataset: Dataset) -> None:
        """See `Erm.require`: the model must be one of `network`, and some label must occur under several attributes."""
        super().require(model, dataset)
        if not any(isinstance(layer, UnitLength) for layer in model.backbone.modules()):
            raise ValueError(
                "model has features of any length, but training=end needs length one: train End().network(model)"
            )
        counts = group_counts(dataset.train.y, dataset.train.a, len(dataset.classes), len(dataset.attributes))
        if not ((counts > 0).sum(1) > 1).any():
            raise ValueError(
                "training=end makes samples of one label alike under different attributes, but in train every label "
                "has one attribute only: take training=lff or jtt, which are not told the attribute"
            )

    def learner(self, model: Model, dataset: Dataset, *, seed: int, device: str) -> Entangled:
        """Return the model with both terms."""
        return Entangled(model, dataset, self, device=device)
