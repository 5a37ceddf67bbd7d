"""Rules by which a method chooses its hyper-parameters on val, by name, so that the record can say which."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from efface.data.groups import group_accuracies, group_counts
from efface.problem import Features, Problem

Select = Literal["unbiased_accuracy", "worst_group_accuracy", "accuracy", "balanced_loss"]


def check_select(select: str) -> None:
    """ValueError unless it is the name of a rule."""
    if select not in get_args(Select):
        raise ValueError(f"select is {select!r}, but must be one of {', '.join(get_args(Select))}")


def score(logits: Tensor, features: Features, problem: Problem, select: Select) -> float:
    """How good logits `[n, K]` of a split are; more is better.

    `unbiased_accuracy` and `worst_group_accuracy` are the unweighted mean and the minimum over the groups (y, a) that
    have samples there; `balanced_loss` is minus the cross-entropy in nats, each such group with equal weight.
    """
    y, a = features.y, features.a
    if select == "balanced_loss":
        counts = group_counts(y, a, problem.n_classes, problem.n_attributes)
        weight = 1 / counts[y, a] / (counts > 0).sum()
        return -float(weight @ functional.cross_entropy(logits.double(), y, reduction="none"))
    correct = logits.argmax(1) == y
    if select == "accuracy":
        return float(correct.double().mean())
    per_group = group_accuracies(correct, y, a, problem.n_classes, problem.n_attributes)
    per_group = per_group[~torch.isnan(per_group)]
    return float(per_group.mean() if select == "unbiased_accuracy" else per_group.min())
