"""Groups of (label, attribute): counts, accuracies, and weights that make the two independent or all groups equal."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Rule = Literal["unbiased_accuracy", "worst_group_accuracy", "accuracy", "balanced_loss"]
"""What a model is chosen by on val; see `val_score`."""


def groups(y: Tensor, a: Tensor, n_attributes: int) -> Tensor:
    """Number the group of each sample, `y * n_attributes + a`, `[n]`, as in group DRO.

    Raises:
        ValueError: an attribute is out of range, and would count as one of the next label's.
    """
    if len(a) and not 0 <= int(a.min()) <= int(a.max()) < n_attributes:
        raise ValueError(f"a goes from {int(a.min())} to {int(a.max())}, but must lie in 0 … {n_attributes - 1}")
    return y * n_attributes + a


def group_counts(y: Tensor, a: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """Count the samples of each group, `[n_classes, n_attributes]` float64."""
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < n_classes:
        raise ValueError(f"y goes from {int(y.min())} to {int(y.max())}, but must lie in 0 … {n_classes - 1}")
    flat = torch.bincount(groups(y, a, n_attributes), minlength=n_classes * n_attributes)
    return flat.view(n_classes, n_attributes).to(torch.float64)


def aligned(y: Tensor, a: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """Find the bias-aligned groups, `[n_classes, n_attributes]` bool: those with P(y, a) > P(y) P(a) in these samples.

    Samples of the other groups are bias-conflicting. On Colored MNIST a sample in the colour of its class is aligned;
    on CelebA's blond hair, blond women and men of other hair are.
    """
    p = group_counts(y, a, n_classes, n_attributes) / len(y)
    return p > p.sum(1, keepdim=True) * p.sum(0, keepdim=True) * (1 + 1e-9)


def kamiran_calders(y: Tensor, a: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """Compute weights `[n]` under which a is independent of y: P(y) P(a) / P(y, a), with mean 1.

    Kamiran & Calders, "Data preprocessing techniques for classification without discrimination", 2012, section 5.3;
    AIF360's `Reweighing`.

    Raises:
        ValueError: the group of a label and an attribute that both occur is empty, so that no weights can fill it.
    """
    counts = group_counts(y, a, n_classes, n_attributes)
    per_y, per_a = counts.sum(1, keepdim=True), counts.sum(0, keepdim=True)
    empty = (counts == 0) & (per_y > 0) & (per_a > 0)
    if empty.any():
        raise ValueError(f"no weights make a independent of y: no samples with {_cells(empty)}")
    weights = per_y * per_a / counts / len(y)
    return weights[y, a]


def group_weights(y: Tensor, a: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """Compute weights `[n]` under which all groups count the same: n / (groups · samples in the group), with mean 1.

    Raises:
        ValueError: a group is empty, so that no weights can fill it.
    """
    counts = group_counts(y, a, n_classes, n_attributes)
    if (counts == 0).any():
        raise ValueError(f"no weights make all groups count the same: no samples with {_cells(counts == 0)}")
    return (len(y) / counts.numel() / counts)[y, a]


def _cells(mask: Tensor) -> str:
    """Name the groups where a mask `[n_classes, n_attributes]` is true, the first five of them."""
    cells = [f"y={i},a={j}" for i, j in mask.nonzero().tolist()]
    return ", ".join(cells[:5]) + (f" and {len(cells) - 5} more" if len(cells) > 5 else "")


def group_accuracies(correct: Tensor, y: Tensor, a: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """Compute the accuracy in each group, `[n_classes, n_attributes]` float64; NaN of an empty group.

    Args:
        correct: `[n]` bool, whether each prediction is right.
        y: labels `[n]`.
        a: attributes `[n]`.
        n_classes: number of labels.
        n_attributes: number of attribute values.
    """
    hits = torch.bincount(groups(y, a, n_attributes), weights=correct.double(), minlength=n_classes * n_attributes)
    return hits.view(n_classes, n_attributes) / group_counts(y, a, n_classes, n_attributes)


def mean_over_groups(per_group: Tensor) -> Tensor:
    """Average `[..., n_classes, n_attributes]` over the groups that are not NaN, each with the same weight."""
    return per_group.flatten(-2).nanmean(-1)


def worst_group(per_group: Tensor) -> Tensor:
    """Take the minimum of `[..., n_classes, n_attributes]` over the groups that are not NaN."""
    return per_group.nan_to_num(nan=torch.inf).amin((-2, -1))


def val_score(logits: Tensor, y: Tensor, a: Tensor, n_classes: int, n_attributes: int, rule: Rule) -> float:
    """Score a model on val, for a choice among several; higher is better.

    Groups without samples do not count.

    Args:
        logits: `[n, K]`.
        y: labels `[n]`.
        a: attributes `[n]`.
        n_classes: K.
        n_attributes: how many values a has.
        rule: `accuracy`; `unbiased_accuracy` or `worst_group_accuracy`, the mean or the minimum of the accuracies of
            the groups; or `balanced_loss`, *minus* the cross-entropy in nats with each group of equal weight.
    """
    if rule == "balanced_loss":
        counts = group_counts(y, a, n_classes, n_attributes)
        weight = 1 / counts[y, a] / (counts > 0).sum()
        return -float(weight @ functional.cross_entropy(logits.double(), y, reduction="none"))
    correct = logits.argmax(1) == y
    if rule == "accuracy":
        return float(correct.double().mean())
    if rule not in get_args(Rule):
        raise ValueError(f"rule is {rule!r}, but must be one of {', '.join(get_args(Rule))}")
    per_group = group_accuracies(correct, y, a, n_classes, n_attributes)
    return float(mean_over_groups(per_group) if rule == "unbiased_accuracy" else worst_group(per_group))
