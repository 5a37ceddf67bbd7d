"""Classifiers of several kinds that read the attribute from debiased features.

Each is trained on one half of a split, and makes its own choices inside that half: hyper-parameters, or when to stop,
by log loss on a part that it is not fitted on. The other half scores it. One that reads nothing there answers with the
attribute's frequencies, see `towards_prior`, so that it is not counted as worse than no attacker.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from efface.evaluation import probes
from efface.evaluation.probes import ProbeResult
from efface.softmax import fit_softmax

_TREES, _LEAVES, _RATE = 100, 31, 0.1
"""Trees for each value at most, leaves of each, and learning rate: scikit-learn's defaults."""
_NEIGHBOURS = (1, 3, 10, 30, 100, 300)
_LANDMARKS = 300
_WIDTHS = (0.25, 1.0, 4.0)
"""Of the kernel, as multiples of the median squared distance."""
_KERNEL_L2 = 1e-3
"""Penalty under which kernel widths are compared; that of the fit that is scored is chosen by cross-validation."""
_SHARES = 21
"""Mixtures with the frequencies that are tried."""


@dataclass(frozen=True)
class Target:
    """What an attacker is given: standardised features, the attribute, and who may see which samples."""

    x: Tensor
    """`[n, d]`"""
    a: Tensor
    """`[n]`"""
    strata: Tensor
    """`[n]`: groups that both halves get evenly."""
    n_attributes: int
    cluster: Tensor | None = None
    """`[n]`: samples of one value are in one half."""

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows to fit on, rows to choose on, and rows to score on: a quarter, a quarter, a half."""
        train, test = probes.halves(self.strata, self.cluster)
        inner, chosen_on = probes.halves(self.strata[train], None if self.cluster is None else self.cluster[train])
        return train[inner], train[chosen_on], test

    def scored(self, logits: Callable[[Tensor], Tensor]) -> ProbeResult:
        """Score an attacker, mixed with the attribute's frequencies.

        Args:
            logits: returns `[m, n_attributes]` of rows `[m]`, fitted without the rows to choose and to score on.
        """
        inner, chosen_on, test = self.parts()
        prior = torch.bincount(self.a[torch.cat([inner, chosen_on])], minlength=self.n_attributes).double()
        prior = (prior.clamp_min(0.5) / prior.clamp_min(0.5).sum()).log()
        mixed = towards_prior(logits(chosen_on), self.a[chosen_on], prior)
        return probes.score(mixed(logits(test)), self.a[test], None, test)


Attacker = Callable[[Target], ProbeResult]


def towards_prior(logits: Tensor, a: Tensor, prior: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a map of logits that undoes over-confidence: s · logits + (1 − s) · log prior, s in 0, 0.05, … 1.

    s has the least log loss on samples that the classifier was not fitted on. At s = 0 it says what is known without
    features. After the temperature of Guo et al., "On calibration of modern neural networks", 2017, section 4.2, but
    towards the attribute's frequencies instead of equal ones.

    Args:
        logits: `[m, K]` of those samples.
        a: their attributes `[m]`.
        prior: log frequencies `[K]`.
    """

    def mixed(share: float, logits: Tensor) -> Tensor:
        return share * logits.double().log_softmax(1) + (1 - share) * prior

    shares = torch.linspace(0, 1, _SHARES).tolist()
    losses = [float(functional.cross_entropy(mixed(share, logits), a)) for share in shares]
    return partial(mixed, shares[losses.index(min(losses))])


def linear(target: Target) -> ProbeResult:
    """Converged softmax regression, its penalty by cross-validation; see `efface.evaluation.probes.linear_probe`."""
    return probes.linear_probe(target.x, target.a, target.strata, target.n_attributes, cluster=target.cluster)


def mlp(target: Target, width: int) -> ProbeResult:
    """Network of one hidden layer, stopped by log loss; see `efface.evaluation.probes.fit_mlp`."""
    inner, chosen_on, _ = target.parts()
    net = probes.fit_mlp(target.x.float(), target.a, inner, chosen_on, target.n_attributes, width=width)

    def logits(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(net(target.x[rows].float()))

    return target.scored(logits)


def trees(target: Target) -> ProbeResult:
    """Gradient-boosted trees by histograms, as many as have the least log loss: at most 100 for each value."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    inner, chosen_on, _ = target.parts()
    model = HistGradientBoostingClassifier(
        learning_rate=_RATE, max_iter=_TREES, max_leaf_nodes=_LEAVES, early_stopping=False, random_state=0
    ).fit(_numpy(target.x[inner]), _numpy(target.a[inner]))

    def stages(rows: Tensor) -> list[Tensor]:
        return [_logits(model, p, target) for p in model.staged_predict_proba(_numpy(target.x[rows]))]

    losses = [float(functional.cross_entropy(each, target.a[chosen_on])) for each in stages(chosen_on)]
    best = losses.index(min(losses))
    return target.scored(lambda rows: stages(rows)[best])


def neighbours(target: Target) -> ProbeResult:
    """k nearest neighbours in the standardised features, k by log loss; the frequencies count as one neighbour more."""
    from sklearn.neighbors import NearestNeighbors

    inner, chosen_on, _ = target.parts()
    counts = [k for k in _NEIGHBOURS if k <= len(inner)]
    index = NearestNeighbors(n_neighbors=counts[-1]).fit(_numpy(target.x[inner]))
    one_hot = functional.one_hot(target.a[inner], target.n_attributes).double()

    def votes(rows: Tensor) -> Tensor:
        """Return how often each value is among the nearest 1, 2, … `[m, most, K]`."""
        nearest = torch.from_numpy(index.kneighbors(_numpy(target.x[rows]), return_distance=False))
        return one_hot[nearest.to(one_hot.device)].cumsum(1)

    def of(votes: Tensor, k: int) -> Tensor:
        return ((votes[:, k - 1] + one_hot.mean(0).clamp_min(1e-3)) / (k + 1)).log()

    held_out = votes(chosen_on)
    losses = [float(functional.cross_entropy(of(held_out, k), target.a[chosen_on])) for k in counts]
    best = counts[losses.index(min(losses))]
    return target.scored(lambda rows: of(votes(rows), best))


def rbf(target: Target) -> ProbeResult:
    """Converged softmax regression on 300 Nyström features of a radial kernel, its width by log loss.

    Williams & Seeger, "Using the Nyström method to speed up kernel machines", 2001.
    """
    from sklearn.kernel_approximation import Nystroem

    inner, chosen_on, _ = target.parts()
    x = _numpy(target.x)
    some = target.x[inner[:: max(len(inner) // 500, 1)]]
    median = float(torch.pdist(some.double()).square().median())
    best_loss, best = float("inf"), target.x
    for width in _WIDTHS:
        gamma = 1 / max(width * median, 1e-12)
        feature_map = Nystroem(gamma=gamma, n_components=min(_LANDMARKS, len(inner)), random_state=0)
        mapped = torch.from_numpy(feature_map.fit(x[_numpy(inner)]).transform(x)).to(target.x)
        mapped = (mapped - mapped[inner].mean(0)) / mapped[inner].std(0).mean().clamp_min(1e-12)
        fit = fit_softmax(
            mapped[inner].double(), target.a[inner], n_classes=target.n_attributes, l2=_KERNEL_L2, tol=1e-4
        )
        loss = float(functional.cross_entropy(fit.logits(mapped[chosen_on].double()), target.a[chosen_on]))
        if loss < best_loss:
            best_loss, best = loss, mapped
    return probes.linear_probe(best, target.a, target.strata, target.n_attributes, cluster=target.cluster)


ATTACKERS: dict[str, Attacker] = {
    "linear": linear,
    "mlp_32": partial(mlp, width=32),
    "mlp_128": partial(mlp, width=128),
    "mlp_512": partial(mlp, width=512),
    "trees": trees,
    "neighbours": neighbours,
    "rbf": rbf,
}
"""By name."""


def _numpy(tensor: Tensor) -> Any:
    return np.ascontiguousarray(tensor.cpu().numpy())


def _logits(model: Any, probabilities: np.ndarray, target: Target) -> Tensor:
    """Return log probabilities `[m, n_attributes]` of a scikit-learn classifier, which knows the values it has seen."""
    full = torch.full((len(probabilities), target.n_attributes), 1e-6, dtype=torch.float64, device=target.a.device)
    full[:, torch.from_numpy(model.classes_).to(full.device)] = torch.from_numpy(probabilities).to(full).clamp_min(1e-6)
    return full.log()
