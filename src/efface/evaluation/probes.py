"""Probes: what a fresh classifier reads of the protected attribute from features that the method never saw.

A probe is trained on one half of the samples and scored on the other; clusters (one person's photographs) go to a half
as a whole. Inputs are centred and scaled by the *un-erased* training features: scaled by the erased ones, a probe would
amplify the rounding noise in directions that are gone.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.softmax import fit_softmax, softmax_path

L2_GRID = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Penalties tried, from strong to weak, each fit starting at the one before."""
FOLDS = 3
"""Parts of the half trained on, of which each in turn is held out when the penalty is chosen."""
_TOL, _CHOICE_TOL = 1e-7, 1e-4
"""Largest entry of the gradient of the fit that is scored, and of those that only choose its penalty: on features of
trained networks their held-out loss is right to 5e-4 bits, while a penalty ten times too strong costs far more."""

POWER = 0.05
"""A probe of un-erased features that is not this much above the majority could not show what an eraser does."""
RARE, RARE_AUC = 0.9, 0.6
"""Above this majority the attribute leaves too little to gain in accuracy; there the area under the curve decides."""
MIN_CLUSTERS = 16
"""Clusters in a split, so that each fold of a half of them holds two at least."""
MIN_SAMPLES = 50
"""Samples of each value of a binary attribute."""


@dataclass(frozen=True)
class Standardiser:
    """Centres and scales features by the means and deviations of a reference; constant columns are left unscaled.

    A column is constant if its deviation is below 1e-12 of the largest: a dead feature of a network is often 1e-30 and
    not 0, and would otherwise be scaled up without bound wherever something else is written into it.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Standardiser":
        """Take the means and deviations of the columns of x `[n, d]`."""
        std = x.std(0, correction=0)
        return cls(x.mean(0), torch.where(std > 1e-12 * std.max(), std, 1))

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
    macro_recall: float
    """Mean over the values of their own accuracy (balanced accuracy): 1 / values for any constant guess, however rare
    a value is."""
    auc: float | None
    """Area under the ROC curve of a binary attribute: .5 where there is nothing to read. None for others."""
    rows: Tensor
    """`[m]`: the samples that it was scored on."""
    weight: Tensor
    """`[m]`: their weights."""
    gain: Tensor
    """`[m]`: the information of each, in bits; `information` is the weighted mean."""
    correct: Tensor
    """`[m]` bool."""


def score(logits: Tensor, a: Tensor, weight: Tensor | None = None, rows: Tensor | None = None) -> ProbeResult:
    """Score logits `[n, K]` against attributes `[n]`, with H(a) from their own frequencies, under weights `[n]`."""
    weight = torch.ones(len(a), dtype=torch.float64, device=a.device) if weight is None else weight.double()
    total = weight.sum()
    frequency = torch.bincount(a, weights=weight, minlength=logits.shape[1]) / total
    gain = (logits.double().log_softmax(1).gather(1, a[:, None])[:, 0] - frequency.log()[a]) / math.log(2)
    correct = logits.argmax(1) == a
    recall = torch.bincount(a, weights=weight * correct, minlength=logits.shape[1]) / (frequency * total)
    return ProbeResult(
        information=float(weight @ gain / total),
        accuracy=float(weight @ correct.double() / total),
        majority=float(frequency.max()),
        macro_recall=float(recall[frequency > 0].mean()),
        auc=auc(logits[:, 1] - logits[:, 0], a, weight) if logits.shape[1] == 2 else None,
        rows=torch.arange(len(a), device=a.device) if rows is None else rows,
        weight=weight,
        gain=gain,
        correct=correct,
    )


def auc(scores: Tensor, a: Tensor, weight: Tensor) -> float | None:
    """Return P(score of an a = 1 exceeds that of an a = 0), ties half, under weights `[n]`; None if one is absent."""
    values, place = scores.unique(return_inverse=True)  # sorted
    ones, zeros = (torch.bincount(place, weights=weight * (a == value), minlength=len(values)) for value in (1, 0))
    below = zeros.cumsum(0) - zeros / 2
    total = ones.sum() * zeros.sum()
    return float(ones @ below / total) if total > 0 else None


def halves(strata: Tensor, cluster: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return row numbers of two random halves.

    They differ by at most one sample in each stratum of `strata` `[n]`. With `cluster` `[n]`, whole clusters are dealt
    out, from large to small among those whose most frequent stratum is the same.
    """
    generator = torch.Generator().manual_seed(seed)
    if cluster is None:
        order = torch.randperm(len(strata), generator=generator).to(strata.device)
        order = order[torch.argsort(strata[order], stable=True)]
        return order[::2], order[1::2]
    unit = cluster.unique(return_inverse=True)[1]
    sizes = torch.bincount(unit)
    order = torch.randperm(len(sizes), generator=generator).to(unit.device)
    order = order[torch.argsort(sizes[order], descending=True, stable=True)]
    order = order[torch.argsort(_usual_stratum(unit, strata)[order], stable=True)]
    # First, last, last, first, …: neither half always gets the larger of two.
    first = torch.zeros(len(sizes), dtype=torch.bool, device=unit.device)
    first[order] = torch.isin(torch.arange(len(sizes), device=unit.device) % 4, torch.tensor([0, 3]).to(unit.device))
    return first[unit].nonzero()[:, 0], (~first[unit]).nonzero()[:, 0]


def linear_probe(
    x: Tensor,
    a: Tensor,
    strata: Tensor,
    n_attributes: int,
    *,
    weight: Tensor | None = None,
    cluster: Tensor | None = None,
    grid: tuple[float, ...] = L2_GRID,
) -> ProbeResult:
    """Train and score a converged softmax regression in float64, its L2 penalty chosen by log loss in its own half.

    The choice is by cross-validation over `FOLDS` parts of that half. Each fit that is compared then sees two thirds of
    it: chosen on a half of it, the penalty would be that of half as many samples, too strong, and the probe would
    understate what is left.

    Args:
        x: standardised features `[n, d]`.
        a: attribute `[n]`.
        strata: `[n]`, groups that both halves get evenly.
        n_attributes: number of values of the attribute.
        weight: `[n]`, under which it is trained and scored; None for the samples as they are.
        cluster: `[n]`, see `halves`.
        grid: penalties to choose from, from strong to weak.
    """
    train, test = halves(strata, cluster)
    w = torch.ones(len(a), dtype=torch.float64, device=x.device) if weight is None else weight.double()
    l2, start = grid[0], None
    if len(grid) > 1:
        fold = folds(strata[train], None if cluster is None else cluster[train])
        l2, start = _chosen_l2(x[train], a[train], w[train], fold, n_attributes, grid)
    fit = fit_softmax(x[train], a[train], n_classes=n_attributes, l2=l2, weight=w[train], init=start, tol=_TOL)
    return score(fit.logits(x[test]), a[test], w[test], test)


def folds(strata: Tensor, cluster: Tensor | None = None, seed: int = 0) -> Tensor:
    """Return the number 0 … `FOLDS` − 1 of each sample's fold, `[n]`.

    Folds of samples are as even in all strata as they can be. With `cluster` `[n]`, a whole cluster is in one fold; the
    largest are dealt out first among those whose most frequent stratum is the same.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = None if cluster is None else cluster.unique(return_inverse=True)[1]
    usual = strata if unit is None else _usual_stratum(unit, strata)
    order = torch.randperm(len(usual), generator=generator).to(strata.device)
    if unit is not None:
        order = order[torch.argsort(torch.bincount(unit)[order], descending=True, stable=True)]
    order = order[torch.argsort(usual[order], stable=True)]
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=order.device) % FOLDS
    return number if unit is None else number[unit]


def _usual_stratum(unit: Tensor, strata: Tensor) -> Tensor:
    """Return the most frequent stratum of each unit."""
    counts = torch.zeros(int(unit.max()) + 1, int(strata.max()) + 1, device=unit.device)
    counts.index_put_((unit, strata), torch.ones(len(unit), device=unit.device), accumulate=True)
    return counts.argmax(1)


def _chosen_l2(
    x: Tensor, a: Tensor, weight: Tensor, fold: Tensor, n_attributes: int, grid: tuple[float, ...]
) -> tuple[float, Tensor]:
    """Return the penalty of the least log loss on held-out folds, and the mean parameters of its fits.

    The folds' fits go along the grid together, each from where its last one ended, so that two sets of parameters are
    kept and not all of them.
    """
    parts = [((fold != k).nonzero()[:, 0], (fold == k).nonzero()[:, 0]) for k in fold.unique().tolist()]
    paths = [
        softmax_path(x[inner], a[inner], grid, n_classes=n_attributes, weight=weight[inner], tol=_CHOICE_TOL)
        for inner, _ in parts
    ]
    best_loss, best = math.inf, (grid[0], x.new_zeros(0))
    for l2, fits in zip(grid, zip(*paths, strict=True), strict=True):
        losses = [
            weight[held_out] @ functional.cross_entropy(fit.logits(x[held_out]), a[held_out], reduction="none")
            for fit, (_, held_out) in zip(fits, parts, strict=True)
        ]
        loss = float(torch.stack(losses).sum() / weight.sum())
        if loss < best_loss:
            best_loss, best = loss, (l2, torch.stack([fit.theta for fit in fits]).mean(0))
    return best


def unreadable(a: Tensor, n_attributes: int, cluster: Tensor | None = None) -> str | None:
    """Say why no probe can be trained and scored on samples of these attributes `[n]`; None if one can."""
    counts = torch.bincount(a, minlength=n_attributes)
    if int((counts > 0).sum()) < 2:
        return "underpowered: the attribute has one value only in this split"
    if n_attributes == 2 and int(counts.min()) < MIN_SAMPLES:
        return f"underpowered: a value of the attribute has {int(counts.min())} samples, fewer than {MIN_SAMPLES}"
    if cluster is not None and len(cluster.unique()) < MIN_CLUSTERS:
        return f"underpowered: {len(cluster.unique())} clusters, fewer than {MIN_CLUSTERS}"
    return None


def powerless(x: Tensor, a: Tensor, strata: Tensor, n_attributes: int, cluster: Tensor | None = None) -> str | None:
    """Say why a probe of *un-erased* features x shows too little for one of erased ones to mean anything, or None.

    Below 5 points above the majority, what an eraser seems to remove may never have been readable. One fit of a
    middling penalty is usually enough to see it; only where it is not is the penalty chosen.
    """
    for grid in (L2_GRID[3:4], L2_GRID):
        probe = linear_probe(x, a, strata, n_attributes, cluster=cluster, grid=grid)
        if has_power(probe):
            return None
    return (
        f"underpowered: from the un-erased features a probe reads the attribute at {probe.accuracy:.1%}, less than "
        f"{POWER:.0%} above the majority of {probe.majority:.1%}"
    )


def has_power(probe: ProbeResult) -> bool:
    """Tell whether a probe is clearly better than a constant guess."""
    if probe.majority > RARE:
        return probe.auc is not None and probe.auc >= RARE_AUC
    return probe.accuracy >= probe.majority + POWER


def balanced_weights(strata: Tensor, a: Tensor, minimum: int = 20) -> tuple[Tensor | None, str | None]:
    """Return weights `[n]` under which all (label, attribute) are equally frequent, or None and why there are none.

    Args:
        strata: `[n]`, the groups y · n_attributes + a.
        a: `[n]`
        minimum: samples that each group has to have.
    """
    labels = (strata - a).unique(return_inverse=True)[1]
    values = a.unique(return_inverse=True)[1]
    k, m = int(labels.max()) + 1, int(values.max()) + 1
    counts = torch.bincount(labels * m + values, minlength=k * m).view(k, m).double()
    expected = counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True) / counts.sum()
    if (k - 1) * (m - 1) == 0:
        return None, "label or attribute has one value only in this split"
    chi2 = ((counts - expected) ** 2 / expected).sum()
    p_value = torch.special.gammaincc(torch.tensor((k - 1) * (m - 1) / 2.0).to(chi2), chi2 / 2)
    if p_value > 1e-3:
        return None, "label and attribute are independent in this split: the natural distribution will do"
    if counts.min() < minimum:
        return None, f"a group has {int(counts.min())} samples, fewer than {minimum}: no balanced distribution"
    return (len(a) / (k * m) / counts)[labels, values], None


def mlp_probe(
    x: Tensor, a: Tensor, strata: Tensor, n_attributes: int, *, cluster: Tensor | None = None, width: int = 128
) -> ProbeResult:
    """Train and score a network of one hidden layer, stopped by log loss in its own half: what is not linear.

    A lower bound on the information, like every probe. Arguments as for `linear_probe`.
    """
    train, test = halves(strata, cluster)
    inner, held_out = (train[part] for part in halves(strata[train], None if cluster is None else cluster[train]))
    x = x.float()
    net = fit_mlp(x, a, inner, held_out, n_attributes, width=width)
    with torch.no_grad():
        return score(net(x[test]), a[test], None, test)


def fit_mlp(
    x: Tensor,
    a: Tensor,
    inner: Tensor,
    held_out: Tensor,
    n_attributes: int,
    *,
    width: int,
    max_epochs: int = 100,
    patience: int = 5,
) -> nn.Module:
    """Train a network of one hidden layer on rows `inner`, and return it as it was when it did best on `held_out`.

    By log loss. AdamW from a fixed start, batches of 128; it stops after `patience` epochs without a gain.
    """
    # The layers draw from the global generator; leave it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, n_attributes)).to(x.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2, fused=True)
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
    return best
