"""Fast Model Debias: edit the training objective where it made the model biased, and follow its minimum.

Chen et al., "Fast Model Debias with Machine Unlearning", NeurIPS 2023. Three strategies edit the objective:

* `unlearn` leaves the most harmful training samples out,
* `replace` puts their counterfactuals in their place,
* `external` adds samples from a small external set of pairs.

The published step is one Newton step of an undamped edit, in sums over samples with H of the summed loss,

    θ' = θ̂ + H⁻¹ (Σ_removed ∇ℓ(z) − Σ_added ∇ℓ(z̄)),

taken literally by `published_step`. For `external` it removes samples that are not in the training sum, which no convex
objective corresponds to, and on an over-confident model, whose Hessian is nearly singular, it can destroy the model.
The objectives below are convex in a head, and are minimised by damped Newton steps that cannot.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from efface.unlearning.inverse import InverseHessian
from efface.unlearning.objective import Trainable, TrainingObjective

Strategy = Literal["external", "unlearn", "replace"]
STRATEGIES = ("external", "unlearn", "replace")


def external(
    objective: TrainingObjective, centre: Tensor, x_cf: Tensor, y: Tensor, *, alpha: float, weight: Tensor | None = None
) -> TrainingObjective:
    """Return (1 − α) · mean over train of ℓ + α · mean over members of pairs of ℓ(x_cf) + λ/2 ‖θ − θ̂‖².

    Args:
        objective: the training objective.
        centre: θ̂, where the model is.
        x_cf, y: `[m, d]`, `[m]`, members of the pairs: the counterfactual ones, or both.
        alpha: weight of the pairs, in (0, 1].
        weight: `[m]` of each member in the mean over them; the same for all if None.

    Raises:
        ValueError: there are no pairs, or alpha is out of range.
    """
    if len(y) == 0:
        raise ValueError("pairs: there are none, and the external strategy learns from nothing else")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}, but must be a weight of the pairs in (0, 1]")
    check_width(x_cf, y, objective.x.shape[1], "x_cf")
    joined = torch.cat([(1 - alpha) * _normalised(objective.weight, objective.y), alpha * _normalised(weight, y)])
    return replace(
        objective, x=torch.cat([objective.x, x_cf]), y=torch.cat([objective.y, y]), weight=joined, centre=centre
    )


def without(objective: TrainingObjective, rows: Tensor) -> TrainingObjective:
    """Return the objective without the samples in `rows`.

    Raises:
        ValueError: a row is out of range or named twice, all samples go, or a class loses its last one.
    """
    check_rows(objective, rows)
    stays = torch.ones(len(objective.y), dtype=torch.bool, device=objective.y.device)
    stays[rows] = False
    lost = sorted(set(objective.y.unique().tolist()) - set(objective.y[stays].unique().tolist()))
    if lost:
        raise ValueError(f"rows: no sample of classes {lost} would be left; leave fewer out")
    weight = None if objective.weight is None else objective.weight[stays]
    return replace(objective, x=objective.x[stays], y=objective.y[stays], weight=weight)


def removable(y: Tensor, ranking: Tensor) -> int:
    """Return how many samples of a ranking of all can leave before a class of `y` `[n]` loses its last one."""
    ranked = y[ranking]
    return min(int((ranked == c).nonzero()[-1, 0]) for c in ranked.unique())


def replaced(objective: TrainingObjective, rows: Tensor, x_cf: Tensor) -> TrainingObjective:
    """Return the objective with the samples in `rows` replaced by their counterfactuals `[len(rows), d]`.

    Labels stay as they are.

    Raises:
        ValueError: as `without`, or shapes do not fit.
    """
    check_rows(objective, rows)
    if x_cf.shape != (len(rows), objective.x.shape[1]):
        raise ValueError(f"x_cf has shape {list(x_cf.shape)}, but must be [{len(rows)}, {objective.x.shape[1]}]")
    x = objective.x.clone()
    x[rows] = x_cf
    return replace(objective, x=x)


def published_step(
    trainable: Trainable,
    objective: TrainingObjective,
    theta: Tensor,
    inverse: InverseHessian,
    *,
    removed: tuple[Tensor, Tensor],
    added: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return θ' of one full Newton step, for all samples at once and with one Hessian.

    Args:
        trainable: what θ parametrises.
        objective: the training objective, without weights; H of the summed loss is n times its Hessian.
        theta: θ̂; it is not changed.
        inverse: that of the objective's Hessian at θ̂.
        removed: x and y of the samples whose gradients leave the sum.
        added: of those that join it.

    Raises:
        ValueError: labels of removed and added samples differ.
        ArithmeticError: θ' is not finite.
    """
    if added is not None:
        check_pairs(removed[1], added[1])
    gradient = trainable.gradient_sum(theta, *removed)
    if added is not None:
        gradient = gradient - trainable.gradient_sum(theta, *added)
    stepped = theta + inverse(gradient.to(theta) / len(objective.y)).to(theta)
    if not bool(stepped.isfinite().all()):
        raise ArithmeticError("the Newton step is not finite; the model is as it was: raise damping")
    return stepped


def check_rows(objective: TrainingObjective, rows: Tensor) -> None:
    """Raise ValueError unless `rows` are different samples of the objective, and not all of them."""
    n = len(objective.y)
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= n):
        raise ValueError(f"rows go from {int(rows.min())} to {int(rows.max())}, but must lie in 0 … {n - 1}")
    if len(rows.unique()) < len(rows):
        raise ValueError(f"rows names {len(rows) - len(rows.unique())} samples twice; each can leave once")
    if len(rows) == n:
        raise ValueError(f"rows: all {n} samples would leave; nothing would be left to train on")


def check_width(x: Tensor, y: Tensor, d: int, name: str) -> None:
    """Raise ValueError unless x is `[len(y), d]`; the message begins with `name`."""
    if x.shape != (len(y), d):
        raise ValueError(
            f"{name} has shape {list(x.shape)}, but must be {[len(y), d]}: a row for each label, as wide as the head "
            "takes them"
        )


def check_pairs(y: Tensor, y_cf: Tensor) -> None:
    """Raise ValueError unless the members of every pair have the same label."""
    if len(y) != len(y_cf):
        raise ValueError(f"pairs: there are {len(y)} samples and {len(y_cf)} counterfactuals, but each needs its own")
    different = int((y != y_cf).sum())
    if different:
        raise ValueError(f"pairs: in {different} of {len(y)} the labels differ; a counterfactual keeps its label")


def check_labels(y: Tensor, n_classes: int) -> None:
    """Raise ValueError unless y are labels `[n]` of all classes; the message names those without a sample."""
    check_range(y, n_classes, "y")
    absent = (torch.bincount(y, minlength=n_classes) == 0).nonzero()[:, 0].tolist()
    if absent:
        raise ValueError(f"train: no sample of classes {absent}; leave them out of the head, or add some")


def check_range(y: Tensor, n_classes: int, name: str) -> None:
    """Raise ValueError unless y are integer labels `[n]` below `n_classes`; the message begins with `name`."""
    if y.dtype == torch.bool or y.is_floating_point() or y.ndim != 1:
        raise ValueError(f"{name} has shape {list(y.shape)} and dtype {y.dtype}, but must be integer labels [n]")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < n_classes:
        raise ValueError(
            f"{name} has labels from {int(y.min())} to {int(y.max())}, but must lie in 0 … {n_classes - 1}"
        )


def _normalised(weight: Tensor | None, y: Tensor) -> Tensor:
    """Return weights `[n]` float64 that sum to 1; equal ones if None."""
    if weight is None:
        return torch.full((len(y),), 1 / len(y), dtype=torch.float64, device=y.device)
    return weight.double() / weight.double().sum()
