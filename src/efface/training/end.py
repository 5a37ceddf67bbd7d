"""EnD: features in which samples of one attribute are orthogonal, and those of one label alike under any attribute.

Tartaglione, Barbano & Grangetto, "EnD: entangling and disentangling deep representations for bias correction", CVPR
2021.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from efface.data.base import Dataset
from efface.data.groups import group_counts
from efface.models.base import Model
from efface.options import Ge, options
from efface.training.learner import Learner
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

    Args:
        alpha: α of the disentangling term; 0.1 in the paper's code.
        beta: β of the entangling term; 0.1 in the paper's code.
    """

    alpha: Annotated[float, Ge(0)] = 0.1
    beta: Annotated[float, Ge(0)] = 0.1

    def require(self, model: Model, dataset: Dataset) -> None:
        """See `Erm.require`: features must be trained, and some label must occur under several attributes."""
        super().require(model, dataset)
        if not any(True for _ in model.backbone.parameters()):
            raise ValueError(
                "training=end shapes the features, but those of this model are its inputs: take model=mlp or another "
                "with layers below the head"
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
