"""All figures of one debiased model on one split. Fractions of 1, and bits."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from efface.data.groups import aligned, group_counts, groups
from efface.debiased import Debiased
from efface.evaluation import bootstrap, confusion, probes, scores
from efface.evaluation.probes import ProbeResult, Standardiser
from efface.moments import Moments
from efface.problem import Features


@dataclass(frozen=True)
class Reference:
    """What evaluation knows of train: the scale of the un-erased features, and how large each group is."""

    standardise: Standardiser
    share: Tensor
    """`[n_classes, n_attributes]` float64: of each group."""
    aligned: Tensor
    """`[n_classes, n_attributes]` bool: bias-aligned groups, see `efface.data.groups.aligned`."""

    @classmethod
    def of(cls, train: Features, n_classes: int, n_attributes: int) -> "Reference":
        """From the features of train."""
        labels = (train.y, train.a, n_classes, n_attributes)
        share = group_counts(*labels) / len(train)
        return cls(Standardiser.of(train.x), share, aligned(*labels).to(train.x.device))


@dataclass(frozen=True)
class Evaluated:
    """Metrics of one split, and what every sample of it was predicted."""

    metrics: dict[str, Any]
    predictions: dict[str, Tensor]
    """y_pred `[n]`, p_y `[n]`: the probability of the true label, and p_y_cf `[n]`: under a_cf, NaN if unknown."""
    empty_groups: list[str]
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a metric is null, where it is."""
    probes: dict[str, ProbeResult] = field(default_factory=dict)
    """`probe` and `balanced_probe`, where there are."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluates a debiased model.

    Args:
        probe: train a linear probe for the attribute, for `probe_information`, `probe_accuracy`, `probe_majority`,
            `probe_macro_recall`, `probe_auc`; and one under the law in which label and attribute are balanced, where
            they are not.
        mlp_probe: train a non-linear one too, for `mlp_probe_information`.
        bootstrap: resamples of test for the confidence intervals; 0 for none.
    """

    probe: bool = True
    mlp_probe: bool = True
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        if self.bootstrap < 0:
            raise ValueError(f"bootstrap is {self.bootstrap}, but must be a number of resamples, or 0 for none")

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
        n_classes, n_attributes = reference.aligned.shape
        y, a = features.y, features.a
        represented = debiased.represent(features.x, a)
        probabilities = debiased.head(represented).double().softmax(1)
        y_pred = probabilities.argmax(1)
        p_y = probabilities.gather(1, y[:, None])[:, 0]
        p_y_cf = torch.full_like(p_y, torch.nan)
        if counterfactual is not None:
            p_cf = debiased(counterfactual.x, counterfactual.a).double().softmax(1)
            p_y_cf = p_cf.gather(1, y[:, None])[:, 0]

        metrics, empty = group_metrics(y_pred, y, a, reference)
        metrics["counterfactual_bias"] = None if counterfactual is None else float((p_y - p_y_cf).abs().mean())
        metrics |= score_metrics(p_y, y, a, n_classes, n_attributes)
        found, leakage, reasons = self._probes(features, represented, reference)
        metrics |= leakage
        metrics["max_abs_cov"] = max_abs_cov(debiased, n_attributes)
        metrics["feature_shift"] = feature_shift(features.x, represented) if debiased.cut == 1 else None
        binary = (n_classes == 2, n_attributes == 2)
        reasons |= {k: why_undefined(k, *binary) for k, v in metrics.items() if v is None and k not in reasons}
        return Evaluated(metrics, {"y_pred": y_pred, "p_y": p_y, "p_y_cf": p_y_cf}, empty, reasons, found)

    def _probes(
        self, features: Features, represented: Tensor, reference: Reference
    ) -> tuple[dict[str, ProbeResult], dict[str, float | None], dict[str, str]]:
        """Probes of the represented features, the metrics that they give, and why some are null."""
        n_attributes = reference.aligned.shape[1]
        a, cluster = features.a, features.cluster
        strata = groups(features.y, a, n_attributes)
        x = reference.standardise(represented)
        found: dict[str, ProbeResult] = {}
        reasons: dict[str, str] = {}
        mlp: ProbeResult | None = None
        why = probes.unreadable(a, n_attributes, cluster) if self.probe or self.mlp_probe else None
        if why is None and self.probe:
            found["probe"] = probes.linear_probe(x, a, strata, n_attributes, cluster=cluster)
        if (
            why is None
            and (self.probe or self.mlp_probe)
            and not ("probe" in found and probes.has_power(found["probe"]))
        ):
            # What is read so clearly after erasure was readable before it; else it has to be seen.
            # Scaled by themselves: a method may read features of another layer than the reference.
            x_before = Standardiser.of(features.x)(features.x)
            why = probes.powerless(x_before, a, strata, n_attributes, cluster)
        if why is not None:
            found = {}
            reasons |= dict.fromkeys((*_LEAKAGE, "mlp_probe_information"), why)
        elif self.probe:
            weight, unbalanced = probes.balanced_weights(strata, a)
            if weight is None:
                reasons |= {name: str(unbalanced) for name in _LEAKAGE if name.startswith("balanced")}
            else:
                found["balanced_probe"] = probes.linear_probe(
                    x, a, strata, n_attributes, weight=weight, cluster=cluster
                )
        if why is None and self.mlp_probe:
            mlp = probes.mlp_probe(x, a, strata, n_attributes, cluster=cluster)
        metrics: dict[str, float | None] = dict.fromkeys(_LEAKAGE)
        for name, result in found.items():
            metrics |= {f"{name}_{figure}": getattr(result, figure) for figure in _FIGURES[name]}
        metrics["mlp_probe_information"] = mlp.information if mlp else None
        return found, metrics, reasons

    @torch.no_grad()
    def intervals(
        self, evaluated: Evaluated, features: Features, reference: Reference
    ) -> dict[str, list[float] | None]:
        """95 % confidence intervals `[low, high]` of the metrics that are means over samples, or made of such.

        By the percentile bootstrap of the samples, or of clusters where there are. The model is held fixed, and so are
        the probes, of which the half scored on is resampled.
        """
        n_classes, n_attributes = reference.aligned.shape
        y, a, cluster = features.y.cpu(), features.a.cpu(), features.cluster
        y_pred, p_y, p_y_cf = (evaluated.predictions[name].cpu() for name in ("y_pred", "p_y", "p_y_cf"))
        share, aligned_cells = reference.share.cpu(), reference.aligned.cpu()
        cells, strata = confusion.cell(y, a, y_pred, n_classes, n_attributes), groups(y, a, n_attributes)
        one, bias = torch.ones(len(y)), (p_y - p_y_cf).abs().float()
        held_out = {
            name: tuple(t.cpu() for t in (found.rows, found.weight.float(), found.gain.float(), found.correct.float()))
            for name, found in evaluated.probes.items()
        }

        def replicate(times: Tensor) -> dict[str, Tensor]:
            counts = bootstrap.sums(one, cells, n_classes * n_attributes * n_classes, times).double()
            values = confusion.figures(counts.mT.view(-1, n_classes, n_attributes, n_classes), share, aligned_cells)
            values["counterfactual_bias"] = bias @ times / times.sum(0)
            if n_attributes == 2:
                mean = (bootstrap.sums(v, strata, 2 * n_classes, times) for v in (p_y, one))
                by_group = torch.div(*mean).view(n_classes, 2, -1)
                values["conditional_score_gap_mean_abs"] = (by_group[:, 0] - by_group[:, 1]).abs().nanmean(0)
            for name, (rows, weight, gain, correct) in held_out.items():
                w = times[rows] * weight[:, None]
                values[f"{name}_information"], values[f"{name}_accuracy"] = (v @ w / w.sum(0) for v in (gain, correct))
            return values

        if not self.bootstrap:
            return {}
        found = bootstrap.intervals(
            len(y), self.bootstrap, replicate, cluster=None if cluster is None else cluster.cpu()
        )
        return {name: bounds for name, bounds in found.items() if evaluated.metrics[name] is not None}


_FIGURES = {
    "probe": ("information", "accuracy", "majority", "macro_recall", "auc"),
    "balanced_probe": ("information", "accuracy", "auc"),  # there the majority is 1 / values of the attribute
}
_LEAKAGE = tuple(f"{name}_{figure}" for name, figures in _FIGURES.items() for figure in figures)


def group_metrics(y_pred: Tensor, y: Tensor, a: Tensor, reference: Reference) -> tuple[dict[str, Any], list[str]]:
    """Accuracies and their gaps, and the names of the empty groups. Null where there is no sample.

    `unbiased_accuracy` and `worst_group_accuracy` are the unweighted mean and the minimum over the groups that are not
    empty; `bias_aligned_accuracy` and `bias_conflicting_accuracy` pool the samples of those groups.

    Args:
        y_pred, y, a: `[n]`
        reference: from train.
    """
    n_classes, n_attributes = reference.aligned.shape
    counts = confusion.table(y, a, y_pred, n_classes, n_attributes)
    per_group, gaps = confusion.accuracies(counts), confusion.true_positive_gaps(counts)
    by_group = {f"y={i},a={j}": _number(per_group[i, j]) for i in range(n_classes) for j in range(n_attributes)}
    metrics = {name: _number(v) for name, v in confusion.figures(counts, reference.share, reference.aligned).items()}
    return (
        {**metrics, "group_accuracy": by_group, "tpr_gap": _by_label(gaps.tolist())},
        [name for name, value in by_group.items() if value is None],
    )


def why_undefined(name: str, binary_label: bool, binary_attribute: bool) -> str:
    """Why a metric is null for these data or this method, if no probe says so."""
    if name in _BINARY and not (binary_label and binary_attribute):
        return "defined for a binary label and a binary attribute"
    if name in _BINARY_ATTRIBUTE and not binary_attribute:
        return "defined for a binary attribute"
    if name == "tpr_gap_correlation" and binary_label:
        return "of fewer than three labels a correlation says nothing"
    known = {
        "counterfactual_bias": "no counterfactual of a sample exists in these data",
        "disparate_impact": "no one under a = 1 is given label 1",
        "bias_aligned_accuracy": "no sample is bias-aligned",
        "bias_conflicting_accuracy": "no sample is bias-conflicting",
        "mlp_probe_information": "the non-linear probe is switched off (evaluation.mlp_probe)",
        "max_abs_cov": "the method is fitted on no data",
        "feature_shift": "the method changes the number of features, or reads those of an earlier layer",
        **dict.fromkeys(_LEAKAGE, "probes are switched off (evaluation.probe)"),
    }
    return known.get(name, "a group that it compares has no sample")


_BINARY = (
    *("statistical_parity_difference", "disparate_impact", "equal_opportunity_difference"),
    *("average_odds_difference", "theil_index"),
)
_BINARY_ATTRIBUTE = (
    *("tpr_gap_rms", "tpr_gap_correlation", "conditional_score_gap_mean_abs", "probe_auc", "balanced_probe_auc"),
)


def score_metrics(p_y: Tensor, y: Tensor, a: Tensor, n_classes: int, n_attributes: int) -> dict[str, Any]:
    """How far the scores of the attribute's values lie apart within each label, and over labels.

    Args:
        p_y: probability of the true label, `[n]`.
        y, a: `[n]`
    """
    binary = n_attributes == 2
    gap = scores.conditional_score_gap(p_y, y, a, n_classes) if binary else [float("nan")] * n_classes
    distance = scores.score_energy_distance(p_y, y, a, n_classes)
    return {
        "conditional_score_gap": _by_label(gap),
        "conditional_score_gap_mean_abs": _number(torch.tensor(gap, dtype=torch.float64).abs().nanmean()),
        "score_energy_distance": _by_label(distance),
        "score_energy_distance_mean": _number(torch.tensor(distance, dtype=torch.float64).nanmean()),
    }


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


def _number(value: Tensor | float) -> float | None:
    number = float(value)
    return number if number == number else None


def _by_label(values: list[float]) -> dict[str, float | None]:
    return {f"y={label}": _number(value) for label, value in enumerate(values)}
