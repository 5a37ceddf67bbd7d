"""Probes: what a fresh classifier reads of the protected attribute from features that the method never saw.

A probe is trained on one half of the samples and scored on the other. Inputs are centred and scaled by the *un-erased*
training features: scaled by the erased ones, a probe would amplify the rounding noise in directions that are gone.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.softmax import SoftmaxFit, fit_softmax

L2_GRID = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Penalties tried, from strong to weak, each fit starting at the one before."""


@dataclass(frozen=True)
class Standardiser:
    """Centres and scales features by the means and deviations of a reference; constant columns are left unscaled."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Standardiser":
        """By the columns of x `[n, d]`."""
        std = x.std(0, correction=0)
        return cls(x.mean(0), torch.where(std > 0, std, 1))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


@dataclass(frozen=True)
class ProbeResult:
    """How well a probe reads the attribute on the half that it was not trained on."""

    information: float
    """H(a) minus the probe's cross-entropy, in bits; slightly negative where there is nothing to read."""
    accuracy: float
    majority: float
    """Share of the most frequent value: the accuracy of a constant guess."""


def score(logits: Tensor, a: Tensor) -> ProbeResult:
    """Score logits `[n, K]` against attributes `[n]`, with H(a) from their own frequencies."""
    frequency = torch.bincount(a).double() / len(a)
    entropy = float(-(frequency * frequency.clamp_min(1e-300).log()).sum())
    cross_entropy = float(functional.cross_entropy(logits.double(), a))
    return ProbeResult(
        information=(entropy - cross_entropy) / math.log(2),
        accuracy=float((logits.argmax(1) == a).double().mean()),
        majority=float(frequency.max()),
    )


def halves(strata: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Row numbers of two random halves that differ by at most one sample in each stratum of `strata` `[n]`."""
    order = torch.randperm(len(strata), generator=torch.Generator().manual_seed(seed)).to(strata.device)
    order = order[torch.argsort(strata[order], stable=True)]
    return order[::2], order[1::2]


def linear_probe(x: Tensor, a: Tensor, strata: Tensor, n_attributes: int) -> ProbeResult:
    """A converged softmax regression in float64, its L2 penalty chosen by log loss within its own half.

    Args:
        x: standardised features `[n, d]`.
        a: attribute `[n]`.
        strata: `[n]`, groups that both halves get evenly.
        n_attributes: number of values of the attribute.
    """
    train, test = halves(strata)
    inner, held_out = (train[part] for part in halves(strata[train]))
    best_l2, best_loss, fit = L2_GRID[0], math.inf, None
    for l2 in L2_GRID:
        fit = _fit(x[inner], a[inner], n_attributes, l2, fit)
        loss = float(functional.cross_entropy(fit.logits(x[held_out]), a[held_out]))
        if loss < best_loss:
            best_l2, best_loss = l2, loss
    fit = _fit(x[train], a[train], n_attributes, best_l2, None)
    return score(fit.logits(x[test]), a[test])


def _fit(x: Tensor, a: Tensor, n_attributes: int, l2: float, init: SoftmaxFit | None) -> SoftmaxFit:
    return fit_softmax(x, a, n_classes=n_attributes, l2=l2, init=init, tol=1e-7)


def mlp_probe(
    x: Tensor,
    a: Tensor,
    strata: Tensor,
    n_attributes: int,
    *,
    width: int = 128,
    max_epochs: int = 100,
    patience: int = 5,
) -> ProbeResult:
    """A one-hidden-layer network, stopped by log loss within its own half: what is left that is not linear.

    A lower bound on the information, like every probe. Arguments as for `linear_probe`.
    """
    train, test = halves(strata)
    inner, held_out = (train[part] for part in halves(strata[train]))
    x = x.float()
    # The layers draw from the global generator; leave it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, n_attributes)).to(x.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(0)
    best_loss, best, waited = math.inf, copy.deepcopy(net), 0
    # Of few samples an epoch is a few steps, and a plateau of some epochs no end: wait for 60 steps at least.
    batches = math.ceil(len(inner) / 128)
    patience, max_epochs = max(patience, 60 // batches), max(max_epochs, 600 // batches)
    with torch.enable_grad():
        for _ in range(max_epochs):
            for rows in torch.randperm(len(inner), generator=generator).split(128):
                loss = functional.cross_entropy(net(x[inner[rows]]), a[inner[rows]])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                held_out_loss = float(functional.cross_entropy(net(x[held_out]), a[held_out]))
            if held_out_loss < best_loss:
                best_loss, best, waited = held_out_loss, copy.deepcopy(net), 0
            else:
                waited += 1
                if waited == patience:
                    break
    with torch.no_grad():
        return score(best(x[test]), a[test])
