"""Learning debiased representations via disentangled feature augmentation.

Lee, Kim, Lee, Lee & Choo, "Learning debiased representation via disentangled feature augmentation", NeurIPS 2021.
"""

import copy
from typing import Annotated

import torch
from torch import Tensor, nn

from efface.data.base import Dataset
from efface.models.base import Model
from efface.options import Ge, Gt, Le, Lt, options
from efface.training.difficulty import RelativeDifficulty, generalised_cross_entropy, weighted
from efface.training.learner import Learner, require_features
from efface.training.stepped import Stepped


class TwoEncoders(nn.Module):
    """Features z = [z_i, z_b] `[n, 2d]`: those of the intrinsic attributes, and those of the bias.

    Args:
        intrinsic: E_i, maps inputs to `[n, d]`.
        biased: E_b, likewise.
    """

    def __init__(self, intrinsic: nn.Module, biased: nn.Module) -> None:
        super().__init__()
        self.intrinsic, self.biased = intrinsic, biased

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.intrinsic(x), self.biased(x)], 1)


class Disentangled(Learner):
    """The objective of the paper, equations 1 to 4.

    C_i classifies by z with the gradient to E_b held back, its loss weighted by relative difficulty; C_b by z with that
    to E_i held back, under the generalised cross-entropy. From the epoch `swap_after` on, both see z_i beside z_b of
    another sample of the batch as well: C_i is asked for the label of the first, C_b for that of the second.

    Args:
        model: E_i and E_b in its backbone, C_i its head.
        dataset: for the labels of train.
        training: the options.
        seed: of C_b and of the samples that are swapped.
        device: where the networks are to be.
    """

    def __init__(self, model: Model, dataset: Dataset, training: "Ldd", *, seed: int, device: str) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._biased_head = nn.Linear(model.head.in_features, model.head.out_features)
        super().__init__(model, self._biased_head, precision=training.precision, device=device)
        self._training, self._y = training, dataset.train.y.to(device)
        self._weigh = RelativeDifficulty(self._y, len(dataset.classes), ema=training.ema, device=device)
        self._generator, self._epoch = torch.Generator().manual_seed(seed), 0

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y, options = self._y[rows.to(x.device)], self._training
        intrinsic, biased = self.compute(self.model.backbone, x).chunk(2, 1)
        logits, guess = self._classify(intrinsic, biased)
        weight = self._weigh(guess, logits, rows)
        loss = weighted(logits, y, weight) + options.biased * self._biased_loss(guess, y)
        if self._epoch >= options.swap_after:
            other = torch.randperm(len(rows), generator=self._generator).to(x.device)
            swapped, swapped_guess = self._classify(intrinsic, biased[other])
            augmented = weighted(swapped, y, weight) + options.swap_biased * self._biased_loss(swapped_guess, y[other])
            loss = loss + options.swap * augmented
        return loss, logits

    def report(self) -> dict[str, float]:
        """Return whether features were swapped in the epoch, 0 or 1."""
        self._epoch += 1
        return {"swapped": float(self._epoch > self._training.swap_after)}

    def _classify(self, intrinsic: Tensor, biased: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of C_i and C_b, each with a gradient to its own encoder only."""
        logits = self.compute(self.model.head, torch.cat([intrinsic, biased.detach()], 1))
        return logits, self.compute(self._biased_head, torch.cat([intrinsic.detach(), biased], 1))

    def _biased_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return generalised_cross_entropy(logits, y, self._training.q).mean()


@options
class Ldd(Stepped):
    """Disentangled feature augmentation: bias-conflicting samples are made by swapping features within a batch.

    Its network has two encoders of the configured kind, which start at the same weights, and a head on both. It is not
    told the attribute, but that what is biased is learned first. The defaults are those of the paper's code for Colored
    MNIST: 10,000 of 50,000 steps of 256 samples before features are swapped, and as many between two steps of the
    learning rate from then on.

    Args:
        lr: learning rate, as in the paper's code.
        q: of the generalised cross-entropy, 0.7 in the paper.
        ema: of the moving averages of the losses, 0.7 in the paper's code.
        biased: λ_dis, the weight of the loss of C_b.
        swap_after: epochs before features are swapped.
        swap: λ_swap, the weight of the losses of swapped features.
        swap_biased: λ_swap_b, that of the loss of C_b among them.
    """

    lr: Annotated[float, Gt(0)] = 0.01
    decay_every: Annotated[int, Ge(1)] = 47
    decay: Annotated[float, Gt(0), Le(1)] = 0.5
    q: Annotated[float, Gt(0), Le(1)] = 0.7
    ema: Annotated[float, Ge(0), Lt(1)] = 0.7
    biased: Annotated[float, Ge(0)] = 10.0
    swap_after: Annotated[int, Ge(0)] = 47
    swap: Annotated[float, Ge(0)] = 1.0
    swap_biased: Annotated[float, Ge(0)] = 10.0

    def rate(self, epoch: int) -> float:
        """Return the learning rate's factor, which falls only once features are swapped."""
        return super().rate(max(epoch - self.swap_after, 0))

    def network(self, model: Model) -> Model:
        """Return a model with two encoders, its head drawn from torch's own generator.

        Raises:
            ValueError: the features of the model are its inputs.
        """
        require_features(model, "ldd")
        encoders = TwoEncoders(model.backbone, copy.deepcopy(model.backbone))
        head = nn.Linear(2 * model.head.in_features, model.head.out_features)
        return Model(encoders, head, pretrained=model.pretrained)

    def require(self, model: Model, dataset: Dataset) -> None:
        """See `Erm.require`: the model must be one that `network` has made."""
        super().require(model, dataset)
        if not isinstance(model.backbone, TwoEncoders):
            raise ValueError("model has one encoder, but training=ldd needs two: train Ldd().network(model)")

    def learner(self, model: Model, dataset: Dataset, *, seed: int, device: str) -> Disentangled:
        """Return the model with C_b beside it."""
        return Disentangled(model, dataset, self, seed=seed, device=device)
