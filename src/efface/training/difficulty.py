"""Relative difficulty: how much harder a sample is for a network that is trained to be biased than for another."""

import torch
from torch import Tensor
from torch.nn import functional


def generalised_cross_entropy(logits: Tensor, y: Tensor, q: float) -> Tensor:
    """Compute (1 - p_yᵠ) / q of each sample, `[n]`: the cross-entropy as q → 0, and 1 - p_y at q = 1.

    L_q of Zhang & Sabuncu, "Generalized cross entropy loss for training deep neural networks with noisy labels",
    NeurIPS 2018. Its gradient is that of the cross-entropy times p_yᵠ: samples that are easy already count more.
    """
    p = logits.softmax(1).gather(1, y[:, None])[:, 0]
    return (1 - p.clamp_min(1e-12) ** q) / q  # the derivative of pᵠ is infinite at zero


def weighted(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Return the mean cross-entropy, each sample times its weight: a scalar."""
    return (weight * functional.cross_entropy(logits, y, reduction="none")).mean()


class RelativeDifficulty:
    """Weights W = ℓ_B / (ℓ_B + ℓ_D) of samples, from their losses under a biased network and one to be debiased.

    Nam et al., "Learning from failure", NeurIPS 2020, section 3.2. As in its code, the loss of a sample is an
    exponential moving average over the epochs, and is divided by the largest of its class in train.

    Args:
        y: labels `[n]` of train.
        n_classes: number of labels.
        ema: α of the moving averages, the share of what was before.
        device: of the logits.
    """

    def __init__(self, y: Tensor, n_classes: int, *, ema: float, device: str) -> None:
        self._y, self._n_classes, self._ema = y.to(device), n_classes, ema
        self._losses = torch.full((2, len(y)), torch.nan, device=device)

    @torch.no_grad()
    def __call__(self, biased: Tensor, debiased: Tensor, rows: Tensor) -> Tensor:
        """Take the logits `[m, K]` of both for `rows` of train into the averages, and return the weights `[m]`."""
        rows = rows.to(self._y.device)
        y = self._y[rows]
        new = torch.stack([functional.cross_entropy(logits, y, reduction="none") for logits in (biased, debiased)])
        old = self._losses[:, rows]
        # A sample's average begins with its first loss.
        self._losses[:, rows] = torch.where(old.isnan(), new, self._ema * old + (1 - self._ema) * new)
        largest = torch.zeros(2, self._n_classes, device=rows.device)
        largest.scatter_reduce_(1, self._y.expand(2, -1), self._losses.nan_to_num(nan=0), "amax")
        hard, easy = self._losses[:, rows] / largest[:, y].clamp_min(1e-12)
        weight: Tensor = hard / (hard + easy + 1e-8)
        return weight
