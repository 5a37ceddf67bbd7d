"""Fast Model Debias: edit the training objective where it made the model biased, and follow its minimum.

Chen et al., "Fast Model Debias with Machine Unlearning", NeurIPS 2023. Three strategies edit the objective:

* `unlearn` leaves the most harmful training samples out,
* `replace` puts their counterfactuals in their place,
* `external` adds the counterfactual members of a small external set of pairs.

The published step is one Newton step of an undamped edit, in sums over samples with H of the summed loss,

    θ' = θ̂ + H⁻¹ (Σ_removed ∇ℓ(z) − Σ_added ∇ℓ(z̄)),

taken literally by `published_step`. For `external` it removes samples that are not in the training sum, which no convex
objective corresponds to, and on an over-confident model, whose Hessian is nearly singular, it can destroy the model.
The laws below are convex in a head, and are minimised by damped Newton steps that cannot.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from efface.unlearning.head import Head, head_of, head_parameters
from efface.unlearning.inverse import InverseHessian
from efface.unlearning.objective import Minimum, Trainable, TrainingObjective

Strategy = Literal["external", "unlearn", "replace"]
STRATEGIES = ("external", "unlearn", "replace")


def external(law: TrainingObjective, centre: Tensor, x_cf: Tensor, y: Tensor, *, alpha: float) -> TrainingObjective:
    """(1 − α) · mean over train of ℓ + α · mean over pairs of ℓ(x_cf) + λ/2 ‖θ − θ̂‖².

    Args:
        law: of train.
        centre: θ̂, where the model is.
        x_cf, y: `[m, d]`, `[m]`, the counterfactual members of the pairs.
        alpha: weight of the pairs, in (0, 1].

    Raises:
        ValueError: there are no pairs, or alpha is out of range.
    """
    if len(y) == 0:
        raise ValueError("pairs: there are none, and the external strategy learns from nothing else")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}, but must be a weight of the pairs in (0, 1]")
    n, m = len(law.y), len(y)
    weight = law.x.new_full((n + m,), alpha / m, dtype=torch.float64)
    weight[:n] = (1 - alpha) * _normalised(law)
    return replace(law, x=torch.cat([law.x, x_cf]), y=torch.cat([law.y, y]), weight=weight, centre=centre)


def without(law: TrainingObjective, rows: Tensor) -> TrainingObjective:
    """The law without the samples in `rows`.

    Raises:
        ValueError: a row is out of range or named twice, all samples go, or a class loses its last one.
    """
    check_rows(law, rows)
    stays = torch.ones(len(law.y), dtype=torch.bool, device=law.y.device)
    stays[rows] = False
    gone = sorted(set(law.y.unique().tolist()) - set(law.y[stays].unique().tolist()))
    if gone:
        raise ValueError(f"rows: no sample of classes {gone} would be left; leave fewer out")
    weight = None if law.weight is None else law.weight[stays]
    return replace(law, x=law.x[stays], y=law.y[stays], weight=weight)


def replaced(law: TrainingObjective, rows: Tensor, x_cf: Tensor) -> TrainingObjective:
    """The law with the samples in `rows` replaced by their counterfactuals `[len(rows), d]`, under the same labels.

    Raises:
        ValueError: as `without`, or shapes do not fit.
    """
    check_rows(law, rows)
    if x_cf.shape != (len(rows), law.x.shape[1]):
        raise ValueError(f"x_cf has shape {list(x_cf.shape)}, but must be [{len(rows)}, {law.x.shape[1]}]")
    x = law.x.clone()
    x[rows] = x_cf
    return replace(law, x=x)


def published_step(
    trainable: Trainable,
    law: TrainingObjective,
    theta: Tensor,
    inverse: InverseHessian,
    *,
    removed: tuple[Tensor, Tensor],
    added: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """θ' of one full Newton step, for all samples at once and with one Hessian.

    Args:
        trainable: what θ parametrises.
        law: of train, without weights; H of the summed loss is n times its Hessian.
        theta: θ̂; it is not changed.
        inverse: of the law's Hessian at θ̂.
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
    stepped = theta + inverse(gradient.to(theta) / len(law.y)).to(theta)
    if not bool(stepped.isfinite().all()):
        raise ArithmeticError("the Newton step is not finite; the model is as it was: raise damping")
    return stepped


def check_rows(law: TrainingObjective, rows: Tensor) -> None:
    """ValueError unless `rows` are different samples of the law, and not all of them."""
    n = len(law.y)
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= n):
        raise ValueError(f"rows go from {int(rows.min())} to {int(rows.max())}, but must lie in 0 … {n - 1}")
    if len(rows.unique()) < len(rows):
        raise ValueError(f"rows names {len(rows) - len(rows.unique())} samples twice; each can leave once")
    if len(rows) == n:
        raise ValueError(f"rows: all {n} samples would leave; nothing would be left to train on")


def check_pairs(y: Tensor, y_cf: Tensor) -> None:
    """ValueError unless the members of every pair have the same label."""
    if len(y) != len(y_cf):
        raise ValueError(f"pairs: there are {len(y)} samples and {len(y_cf)} counterfactuals, but each needs its own")
    different = int((y != y_cf).sum())
    if different:
        raise ValueError(f"pairs: in {different} of {len(y)} the labels differ; a counterfactual keeps its label")


def check_labels(y: Tensor, n_classes: int) -> None:
    """ValueError, with the classes, if one has no training sample."""
    absent = (torch.bincount(y, minlength=n_classes) == 0).nonzero()[:, 0].tolist()
    if absent:
        raise ValueError(f"train: no sample of classes {absent}; leave them out of the head, or add some")


def debias_head(
    head: nn.Linear,
    x: Tensor,
    y: Tensor,
    *,
    x_cf: Tensor,
    y_cf: Tensor,
    alpha: float = 0.8,
    l2: float = 1e-3,
    max_iter: int = 100,
) -> tuple[nn.Linear, Minimum]:
    """A debiased copy of a linear head: converged on train, then moved by the `external` strategy to convergence.

    Args:
        head: K >= 2 logits, with or without intercept; it is not changed.
        x, y: training features `[n, d]` and labels `[n]`.
        x_cf, y_cf: `[m, d]`, `[m]`: features under which the spurious rule fails, and their labels.
        alpha: weight of those.
        l2: λ of the training objective, and of the distance from its minimum.
        max_iter: damped Newton steps.

    Returns:
        The new head, and how its minimisation ended.
    """
    theta = head_parameters(head)
    check_labels(y, len(theta))
    trainable = Head(n_classes=len(theta), bias=head.bias is not None)
    law = TrainingObjective(x=x, y=y, l2=l2)
    theta = trainable.minimise(law, theta, max_iter=max_iter).theta
    found = trainable.minimise(external(law, theta, x_cf, y_cf, alpha=alpha), theta, max_iter=max_iter)
    return head_of(found.theta, bias=trainable.bias, dtype=head.weight.dtype), found


def _normalised(law: TrainingObjective) -> Tensor:
    if law.weight is None:
        return law.x.new_full((len(law.y),), 1 / len(law.y), dtype=torch.float64)
    return law.weight.double() / law.weight.double().sum()
