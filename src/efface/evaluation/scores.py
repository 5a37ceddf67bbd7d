"""How far score distributions of the attribute's values lie apart within a label.

Where no counterfactual of a sample exists, these stand in for counterfactual bias: two different people of one label
differ in their scores also if they share the attribute, but the *laws* of the scores differ only if the model, or what
it sees, treats the attribute's values differently.
"""

from itertools import combinations

import torch
from torch import Tensor


def conditional_score_gap(p_y: Tensor, y: Tensor, a: Tensor, n_classes: int) -> list[float]:
    """E[p_y | y, a = 0] − E[p_y | y, a = 1] for each label; NaN where a value of a binary attribute has no sample."""
    return [float(p_y[(y == k) & (a == 0)].mean() - p_y[(y == k) & (a == 1)].mean()) for k in range(n_classes)]


def score_energy_distance(p_y: Tensor, y: Tensor, a: Tensor, n_classes: int) -> list[float]:
    """Energy distance between the laws of p_y under the attribute's values, for each label; 0 if and only if equal.

    The mean over all pairs of values that occur; NaN where fewer than two do. Székely & Rizzo, 2013; in one dimension
    (2 ∫ (F − G)²)^½, as in SciPy's `energy_distance`.
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
