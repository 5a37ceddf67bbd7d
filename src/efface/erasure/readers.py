"""Small networks that read a concept: what erasers step away from, and by what they say how much is left."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_BATCH, _LEARNING_RATE, _DECAY = 128, 2e-3, 1e-2
_EPOCHS, _PATIENCE, _STEPS = 100, 5, 60
"""An epoch of few samples is a few steps: at least `_STEPS` without a gain end the training."""


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


class Reading(NamedTuple):
    """What one network reads on held-out samples, every class with the same weight, and how far samples have moved."""

    information: float
    """Bits, at most log2 K; 0 where a constant does as well."""
    accuracy: float
    """Mean recall of the classes, 1 / K by chance."""
    shift: float
    """Root mean square, over samples and coordinates, of the move so far, where these have a variance of 1."""


def split(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Split samples at random, within classes y `[n]`: row numbers of three in four, and of the others."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
    order = order[torch.argsort(y[order], stable=True)]
    counts = torch.bincount(y)
    rank = torch.arange(len(y), device=y.device) - (counts.cumsum(0) - counts)[y[order]]
    held_out = rank < (counts / 4).ceil()[y[order]]
    return order[~held_out], order[held_out]


def train_reader(x: Tensor, y: Tensor, w: Tensor, inner: Tensor, held_out: Tensor, *, width: int, seed: int) -> Network:
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
                (unit[rows] @ losses.double() / len(rows)).backward()
                optimizer.step()
        with torch.no_grad():
            loss = float(
                w[held_out] @ functional.cross_entropy(network(x[held_out]), y[held_out], reduction="none").double()
            )
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
        drawn: Tensor = (2 * torch.rand(*shape, generator=generator) - 1) / fan_in**0.5
        return drawn.to(x).requires_grad_()

    d = x.shape[1]
    return Network(uniform(d, width, d), uniform(d, width), uniform(width, k, width), uniform(width, k))


def score(logits: Tensor, y: Tensor, w: Tensor) -> tuple[float, float]:
    """Return bits, 0 at least, and mean recall, both of equally weighted classes, of logits `[n, K]`."""
    k = logits.shape[1]
    w = w / (torch.bincount(y, w, minlength=k)[y] * k)
    loss = float(w @ functional.cross_entropy(logits.double(), y, reduction="none"))
    accuracy = float(w @ (logits.argmax(1) == y).double())
    return max(math.log2(k) - loss / math.log(2), 0.0), accuracy
