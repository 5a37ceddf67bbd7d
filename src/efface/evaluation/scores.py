"""How far score distributions of the attribute's values lie apart within a label.

Where no counterfactual of a sample exists, these stand in for counterfactual bias: two different people of one label
differ in their scores also if they share the attribute, but the *distributions* of the scores differ only if the model,
or what it sees, treats the attribute's values differently.
"""

from itertools import combinations

import torch
from torch import Tensor

from efface.data.groups import groups
from efface.evaluation import bootstrap
from efface.evaluation.measured import Measured, by_label
from efface.metrics.counts import mean_score_gap


def measure(p_y: Tensor, y: Tensor, a: Tensor, n_classes: int, n_attributes: int) -> Measured:
    """Measure how far the scores of the attribute's values lie apart within each label, and over labels.

    Args:
        p_y: probability of the true label, `[n]`.
        y, a: `[n]`.
        n_classes, n_attributes: number of their values.
    """
    binary = n_attributes == 2
    gap = conditional_score_gap(p_y, y, a, n_classes) if binary else [float("nan")] * n_classes
    distance = score_energy_distance(p_y, y, a, n_classes)
    means = {
        "conditional_score_gap_mean_abs": torch.tensor(gap, dtype=torch.float64).abs().nanmean(),
        "score_energy_distance_mean": torch.tensor(distance, dtype=torch.float64).nanmean(),
    }

    def why_null(name: str) -> str:
        if name.startswith("conditional") and not binary:
            return "defined for a binary attribute"
        return "a group that it compares has no sample"

    tables = {"conditional_score_gap": by_label(gap), "score_energy_distance": by_label(distance)}
    return Measured.from_values(means, why_null) | Measured(tables)


def mean_gap_replicates(p_y: Tensor, y: Tensor, a: Tensor, n_classes: int, times: Tensor) -> Tensor:
    """Return `conditional_score_gap_mean_abs` under resamples `times` `[n, columns]`: `[columns]`, of a binary a."""
    cells = groups(y, a, 2)
    sums, sizes = (bootstrap.sums(values, cells, 2 * n_classes, times) for values in (p_y, torch.ones(len(y))))
    return mean_score_gap(sums.view(n_classes, 2, -1), sizes.view(n_classes, 2, -1))


def conditional_score_gap(p_y: Tensor, y: Tensor, a: Tensor, n_classes: int) -> list[float]:
    """Return E[p_y | y, a = 0] − E[p_y | y, a = 1] of each label; NaN where a value of a has no sample."""
    return [float(p_y[(y == k) & (a == 0)].mean() - p_y[(y == k) & (a == 1)].mean()) for k in range(n_classes)]


def score_energy_distance(p_y: Tensor, y: Tensor, a: Tensor, n_classes: int) -> list[float]:
    """Return the energy distance of p_y under the attribute's values, for each label; 0 if and only if equal.

    It is the mean over all pairs of values that occur; NaN where fewer than two do. Székely & Rizzo, 2013; in one
    dimension (2 ∫ (F − G)²)^½, as in SciPy's `energy_distance`.
    """
    distances = []
    for k in range(n_classes):
        samples = [p_y[(y == k) & (a == value)] for value in a[y == k].unique().tolist()]
        apart = [_energy_distance(u, v) for u, v in combinations(samples, 2)]
        distances.append(sum(apart) / len(apart) if apart else float("nan"))
    return distances


def _energy_distance(u: Tensor, v: Tensor) -> float:
    values, order = torch.cat([u, v]).sort()
    weight = torch.cat([u.new_full((len(u),), 1 / len(u)), v.new_full((len(v),), -1 / len(v))])[order]
    difference = weight.cumsum(0)[:-1]
    return float((2 * difference.square() @ values.diff()).sqrt())
