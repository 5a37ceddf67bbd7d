"""Gather what a method learns from, or say why it cannot: the steps that several methods share."""

import torch
from torch import Tensor

from efface.data.groups import group_counts, kamiran_calders
from efface.methods.base import NotApplicable
from efface.problem import Features, Problem


def drawn_pairs(problem: Problem, number: int | None) -> Tensor:
    """Draw pairs at random by the seed of the run: their rows `[number]`, or all in random order if None.

    Raises:
        NotApplicable: there are no pairs, or fewer than `number`.
    """
    available = len(problem.pairs)
    if available == 0:
        raise NotApplicable("the data set has no counterfactual pairs")
    if number is not None and number > available:
        raise NotApplicable(f"number={number}: there are {available} pairs")
    order = torch.randperm(available, generator=torch.Generator().manual_seed(problem.seed))
    return order[:number].to(problem.pairs.y.device)


def require_classes(data: Features, n_classes: int, where: str) -> None:
    """Require a sample of every class, without which no head can be fitted.

    Raises:
        NotApplicable: a class has none; the message ends with `where`.
    """
    absent = (torch.bincount(data.y, minlength=n_classes) == 0).nonzero()[:, 0].tolist()
    if absent:
        raise NotApplicable(f"no sample of classes {absent} {where}")


def require_two_of_each_attribute(data: Features, problem: Problem, where: str, purpose: str) -> None:
    """Require two samples of every value of the attribute, of positive weight.

    Raises:
        NotApplicable: a value has fewer; the message begins with `where`, and ends with `purpose`, what two are for.
    """
    values = data.a if data.weight is None else data.a[data.weight > 0]
    few = (torch.bincount(values, minlength=problem.n_attributes) < 2).nonzero()[:, 0].tolist()
    if few:
        raise NotApplicable(f"{where}: attributes {few} have fewer than two samples, {purpose}")


def equal_cells(data: Features, problem: Problem) -> Tensor:
    """Weight samples so that every label and attribute that occurs counts the same: weights `[n]` that sum to 1."""
    counts = group_counts(data.y, data.a, problem.n_classes, problem.n_attributes)
    return 1 / counts[data.y, data.a] / (counts > 0).sum()


def cells_without_samples(data: Features, problem: Problem) -> list[str]:
    """Name the labels and attributes that do not occur together, as `y=1,a=0`."""
    counts = group_counts(data.y, data.a, problem.n_classes, problem.n_attributes)
    return [f"y={y},a={a}" for y, a in (counts == 0).nonzero().tolist()]


def balanced(data: Features, problem: Problem) -> Features:
    """Weight samples so that the attribute is independent of the label, after Kamiran and Calders.

    Raises:
        NotApplicable: a group is empty, so that no weights can fill it.
    """
    try:
        return data.weighted(kamiran_calders(data.y, data.a, problem.n_classes, problem.n_attributes))
    except ValueError as error:
        raise NotApplicable(f"reweigh=true: {error}") from error
