"""All figures of one debiased model on one split. Fractions of 1, and bits."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from efface.data.groups import group_accuracies, groups
from efface.evaluation.probes import Standardiser, linear_probe, mlp_probe
from efface.methods.base import Debiased, Features
from efface.moments import Moments


@dataclass(frozen=True)
class Reference:
    """What evaluation knows of train: the scale of the un-erased features, and which groups are bias-aligned."""

    standardise: Standardiser
    aligned: Tensor
    """`[n_classes, n_attributes]` bool, see `efface.data.groups.aligned`."""


@dataclass(frozen=True)
class Evaluated:
    """Metrics of one split, and what every sample of it was predicted."""

    metrics: dict[str, Any]
    predictions: dict[str, Tensor]
    """y_pred `[n]`, p_y `[n]`: the probability of the true label, and p_y_cf `[n]`: under a_cf, NaN if unknown."""
    empty_groups: list[str]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluates a debiased model.

    Args:
        probe: train a linear probe for the attribute, for `probe_information`, `probe_accuracy`, `probe_majority`.
        mlp_probe: train a non-linear one too, for `mlp_probe_information`.
    """

    probe: bool = True
    mlp_probe: bool = True

    @torch.no_grad()
    def __call__(
        self, debiased: Debiased, features: Features, counterfactual: Features | None, reference: Reference
    ) -> Evaluated:
        """Evaluate on one split.

        Args:
            debiased: representation and head.
            features: of the split, un-erased.
            counterfactual: the same samples under another attribute, row by row; None where there is no such thing.
            reference: from train.

        Cost: O(nd) apart from the probes.
        """
        n_attributes = reference.aligned.shape[1]
        y, a = features.y, features.a
        represented = debiased.represent(features.x, a)
        probabilities = debiased.head(represented).double().softmax(1)
        y_pred = probabilities.argmax(1)
        p_y = probabilities.gather(1, y[:, None])[:, 0]
        p_y_cf = torch.full_like(p_y, torch.nan)
        if counterfactual is not None:
            p_cf = debiased(counterfactual.x, counterfactual.a).double().softmax(1)
            p_y_cf = p_cf.gather(1, y[:, None])[:, 0]

        metrics, empty = accuracy_metrics(y_pred == y, y, a, reference.aligned)
        metrics["counterfactual_bias"] = None if counterfactual is None else float((p_y - p_y_cf).abs().mean())
        strata = groups(y, a, n_attributes)
        x = reference.standardise(represented)
        linear = linear_probe(x, a, strata, n_attributes) if self.probe else None
        metrics["probe_information"] = linear.information if linear else None
        metrics["probe_accuracy"] = linear.accuracy if linear else None
        metrics["probe_majority"] = linear.majority if linear else None
        mlp = mlp_probe(x, a, strata, n_attributes) if self.mlp_probe else None
        metrics["mlp_probe_information"] = mlp.information if mlp else None
        metrics["max_abs_cov"] = max_abs_cov(debiased, n_attributes)
        metrics["feature_shift"] = feature_shift(features.x, represented) if debiased.cut == 1 else None
        return Evaluated(metrics, {"y_pred": y_pred, "p_y": p_y, "p_y_cf": p_y_cf}, empty)


def accuracy_metrics(correct: Tensor, y: Tensor, a: Tensor, aligned: Tensor) -> tuple[dict[str, Any], list[str]]:
    """Accuracy over all samples, over groups and within each; and the names of the empty groups.

    `unbiased_accuracy` and `worst_group_accuracy` are the unweighted mean and the minimum over the groups that are not
    empty; `bias_aligned_accuracy` and `bias_conflicting_accuracy` pool the samples of those groups. Null where there
    is no sample.

    Args:
        correct: `[n]` bool.
        y, a: `[n]`
        aligned: `[n_classes, n_attributes]` bool.
    """
    per_group = group_accuracies(correct, y, a, *aligned.shape)
    filled = per_group[~per_group.isnan()]
    names = {(i, j): f"y={i},a={j}" for i in range(aligned.shape[0]) for j in range(aligned.shape[1])}
    by_group = {name: _number(per_group[cell]) for cell, name in names.items()}
    in_aligned = aligned[y, a]
    metrics = {
        "accuracy": float(correct.double().mean()),
        "unbiased_accuracy": float(filled.mean()),
        "worst_group_accuracy": float(filled.min()),
        "bias_aligned_accuracy": _number(correct[in_aligned].double().mean()),
        "bias_conflicting_accuracy": _number(correct[~in_aligned].double().mean()),
        "group_accuracy": by_group,
    }
    return metrics, [name for name, value in by_group.items() if value is None]


def max_abs_cov(debiased: Debiased, n_attributes: int) -> float | None:
    """Largest |Cov(represent(x), one-hot a)| on the data fitted on, under their weights; None if fitted on none."""
    data = debiased.fitted_on
    if data is None:
        return None
    z = functional.one_hot(data.a, n_attributes).to(data.x.dtype)
    moments = Moments(data.x.shape[1], n_attributes, device=data.x.device, dtype=data.x.dtype, track_xx=False)
    moments.update(debiased.represent(data.x, data.a), z, data.weight)
    return float(moments.cov_xz().abs().max())


def feature_shift(before: Tensor, after: Tensor) -> float | None:
    """E‖Tx − x‖² / E‖x − μ‖² of features `[n, d]`: 0 if unchanged, 1 if as far as to the mean."""
    if before.shape != after.shape:
        return None
    spread = (before - before.mean(0)).double().square().sum()
    return _number((after - before).double().square().sum() / spread)


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if number == number else None
