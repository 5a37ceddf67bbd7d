"""All metrics of one debiased model on one split. Fractions of 1, and bits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional

from efface.data.base import Dataset
from efface.data.groups import aligned, group_counts
from efface.debiased import Debiased
from efface.evaluation import bootstrap, confusion, scores
from efface.evaluation.leakage import Leakage
from efface.evaluation.measured import Measured
from efface.evaluation.probes import ProbeResult, Standardiser
from efface.moments import Moments
from efface.options import Ge, Le, options
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
        """Make it from the features of train."""
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
    leakage: Leakage = field(default_factory=Leakage)
    attacks: dict[str, ProbeResult] = field(default_factory=dict)
    """What attackers read, by their names; see `efface.evaluation.attacks`."""


Read = Callable[[Tensor, int], Tensor]
"""Returns the features of inputs `[n, ...]` before the last so many linear layers of the base model."""


@dataclass(frozen=True)
class Aside:
    """What is measured of a debiased model on other data than the splits."""

    measured: Measured = field(default_factory=Measured)
    info: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts for the record."""


@options
class Evaluation:
    """Evaluates a debiased model.

    Args:
        probe: train a linear probe for the attribute, for `probe_information`, `probe_accuracy`, `probe_majority`,
            `probe_macro_recall`, `probe_auc`; and one under the distribution in which label and attribute are
            balanced, where they are not.
        mlp_probe: train a non-linear one too, for `mlp_probe_information`.
        bootstrap: resamples of test for the confidence intervals; 0 for none.
    """

    probe: bool = True
    mlp_probe: bool = True
    bootstrap: Annotated[int, Ge(0), Le(100_000)] = 1000

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

        Raises:
            FloatingPointError: the model's logits are not finite, so that no metric would mean anything.

        Cost: O(nd) apart from the probes.
        """
        n_classes, n_attributes = reference.aligned.shape
        y, a = features.y, features.a
        represented = debiased.represent(features.x, a)
        probabilities = _probabilities(debiased.head(represented))
        y_pred, p_y = probabilities.argmax(1), probabilities.gather(1, y[:, None])[:, 0]
        p_y_cf = torch.full_like(p_y, torch.nan)
        if counterfactual is not None:
            p_cf = _probabilities(debiased(counterfactual.x, counterfactual.a))
            p_y_cf = p_cf.gather(1, y[:, None])[:, 0]
        leakage = Leakage.measure(
            features, represented, reference.standardise, n_attributes, linear=self.probe, mlp=self.mlp_probe
        )
        measured = (
            confusion.measure(y_pred, y, a, reference.share, reference.aligned)
            | _counterfactual_bias(p_y, p_y_cf, known=counterfactual is not None)
            | scores.measure(p_y, y, a, n_classes, n_attributes)
            | leakage.measured
            | _edit_metrics(debiased, features.x, represented, n_attributes)
        )
        empty = [name for name, accuracy in measured.metrics["group_accuracy"].items() if accuracy is None]
        predictions = {"y_pred": y_pred, "p_y": p_y, "p_y_cf": p_y_cf}
        return Evaluated(measured.metrics, predictions, empty, measured.reasons, leakage)

    def fingerprint(self, data_dir: Path) -> str:
        """Return a digest of the files that evaluation reads beside the data set's; empty where it reads none."""
        return ""

    def require(self, dataset: Dataset, data_dir: Path) -> None:
        """Refuse data that this evaluation does not apply to, before anything is trained; there are none."""

    def aside(self, debiased: Debiased, dataset: Dataset, read: Read, data_dir: Path) -> Aside:
        """Measure a debiased model on other data than the splits; nothing here."""
        return Aside()

    @torch.no_grad()
    def intervals(
        self, evaluated: Evaluated, features: Features, reference: Reference
    ) -> dict[str, list[float] | None]:
        """Return 95 % confidence intervals `[low, high]` of the metrics that are means over samples, or made of such.

        By the percentile bootstrap of the samples, or of clusters where there are. The model is held fixed, and so are
        the probes, of which the half scored on is resampled.
        """
        if not self.bootstrap:
            return {}
        cluster = None if features.cluster is None else features.cluster.cpu()
        replicate = _replicate(evaluated, features, reference)
        intervals = bootstrap.intervals(len(features), self.bootstrap, replicate, cluster=cluster)
        return {name: bounds for name, bounds in intervals.items() if evaluated.metrics[name] is not None}


def max_abs_cov(debiased: Debiased, n_attributes: int) -> float | None:
    """Return the largest |Cov(represent(x), one-hot a)| on the data fitted on, weighted as there; None if on none."""
    data = debiased.fitted_on
    if data is None:
        return None
    z = functional.one_hot(data.a, n_attributes).to(data.x.dtype)
    moments = Moments(data.x.shape[1], n_attributes, device=data.x.device, dtype=data.x.dtype, track_xx=False)
    moments.update(debiased.represent(data.x, data.a), z, data.weight)
    return float(moments.cov_xz().abs().max())


def feature_shift(before: Tensor, after: Tensor) -> float | None:
    """Return E‖Tx − x‖² / E‖x − μ‖² of features `[n, d]`: 0 if unchanged, 1 if as far as to the mean.

    None if they differ in number, or are constant, so that no distance compares with theirs.
    """
    if before.shape != after.shape:
        return None
    spread = (before - before.mean(0)).double().square().sum()
    return float((after - before).double().square().sum() / spread) if spread > 0 else None


def _probabilities(logits: Tensor) -> Tensor:
    if not bool(logits.isfinite().all()):
        rows = int((~logits.isfinite()).any(1).sum())
        raise FloatingPointError(
            f"the debiased model has diverged: its logits of {rows} of {len(logits)} samples are NaN or infinite; "
            "take smaller steps, or a stronger penalty"
        )
    return logits.double().softmax(1)


def _counterfactual_bias(p_y: Tensor, p_y_cf: Tensor, *, known: bool) -> Measured:
    bias = (p_y - p_y_cf).abs().mean() if known else None
    return Measured.from_values(
        {"counterfactual_bias": bias}, lambda name: "no counterfactual of a sample exists in these data"
    )


def _edit_metrics(debiased: Debiased, before: Tensor, after: Tensor, n_attributes: int) -> Measured:
    """Measure what the method does to features."""
    comparable = debiased.cut == 1 and before.shape == after.shape
    reasons = {
        "max_abs_cov": "the method names no samples that an eraser was fitted on",
        "feature_shift": (
            "the features are constant, so that no shift compares with their spread"
            if comparable
            else "the method changes the number of features, or reads those of an earlier layer"
        ),
    }
    values = {
        "max_abs_cov": max_abs_cov(debiased, n_attributes),
        "feature_shift": feature_shift(before, after) if comparable else None,
    }
    return Measured.from_values(values, reasons.__getitem__)


def _replicate(evaluated: Evaluated, features: Features, reference: Reference) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return a function from resamples `[n, columns]` to metrics `[columns]`."""
    n_classes, n_attributes = reference.aligned.shape
    y, a, share, aligned_groups = (t.cpu() for t in (features.y, features.a, reference.share, reference.aligned))
    y_pred, p_y, p_y_cf = (evaluated.predictions[name].cpu() for name in ("y_pred", "p_y", "p_y_cf"))
    cells = confusion.cell_numbers(y, a, y_pred, n_classes, n_attributes)
    one, bias = torch.ones(len(y)), (p_y - p_y_cf).abs().float()

    def replicate(times: Tensor) -> dict[str, Tensor]:
        counts = bootstrap.sums(one, cells, n_classes * n_attributes * n_classes, times).double()
        tables = counts.mT.view(-1, n_classes, n_attributes, n_classes)
        values = confusion.metrics(tables, share, aligned_groups)
        values["counterfactual_bias"] = bias @ times / times.sum(0)
        if n_attributes == 2:
            gap = scores.mean_gap_replicates(p_y, y, a, n_classes, times)
            values["conditional_score_gap_mean_abs"] = gap
        return values | evaluated.leakage.replicates(times)

    return replicate
