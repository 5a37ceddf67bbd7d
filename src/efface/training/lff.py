"""Learning from Failure: a network learns from the samples that a biased one fails on.

Nam, Cha, Ahn, Lee & Shin, "Learning from failure: training debiased classifier from biased classifier", NeurIPS 2020.
"""

import copy
from typing import Annotated

import torch
from torch import Tensor

from efface.data.base import Dataset
from efface.models.base import Model
from efface.options import Ge, Gt, Le, Lt, options
from efface.training.difficulty import RelativeDifficulty, generalised_cross_entropy, weighted
from efface.training.erm import Erm
from efface.training.learner import Learner


class Failing(Learner):
    """Algorithm 1 of the paper: f_B minimises the generalised cross-entropy, f_D the cross-entropy times W.

    Args:
        model: f_D.
        biased: f_B.
        dataset: for the labels of train.
        training: the options.
        device: where the networks are to be.
    """

    def __init__(self, model: Model, biased: Model, dataset: Dataset, training: "Lff", *, device: str) -> None:
        super().__init__(model, biased, precision=training.precision, device=device)
        self._biased, self._q = biased, training.q
        self._y = dataset.train.y.to(device)
        self._weigh = RelativeDifficulty(self._y, len(dataset.classes), ema=training.ema, device=device)
        self._weights: list[Tensor] = []

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = self._y[rows.to(x.device)]
        logits, guess = self.compute(self.model, x), self.compute(self._biased, x)
        weight = self._weigh(guess, logits, rows)
        self._weights.append(weight)
        loss = weighted(logits, y, weight) + generalised_cross_entropy(guess, y, self._q).mean()
        return loss, logits

    def report(self) -> dict[str, float]:
        """Return the mean of W over the epoch."""
        mean, self._weights = float(torch.cat(self._weights).mean()), []
        return {"mean_weight": mean}


@options
class Lff(Erm):
    """Learning from Failure. It is not told the attribute, but that what is biased is learned first.

    Both networks start at the same weights.

    Args:
        q: of the biased network's generalised cross-entropy, 0.7 in the paper; more of it amplifies the bias more.
        ema: of the moving averages of the losses, 0.7 in the paper's code.
    """

    q: Annotated[float, Gt(0), Le(1)] = 0.7
    ema: Annotated[float, Ge(0), Lt(1)] = 0.7

    def learner(self, model: Model, dataset: Dataset, *, seed: int, device: str) -> Failing:
        """Return both networks."""
        return Failing(model, copy.deepcopy(model), dataset, self, device=device)
