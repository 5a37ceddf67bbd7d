"""Metrics that depend on the counts of (y, a, y_pred) alone: accuracies of groups, and gaps between them.

Tables of counts may be stacked, `[..., K, A, K]`, so that a bootstrap computes all of its replicates at once. What is
not defined is NaN. The binary metrics are AIF360's, with a = 1 privileged and label 1 favourable, and are equal to its
`ClassificationMetric` (tested). They are not called from it because a replicate is a table here and a data set there,
and because importing its metrics takes a second and logs what else one could install.

A further metric of such counts needs an entry in `metrics`, one in `_why_null` if it can be undefined, and its
description in `efface.metrics`.
"""

import torch
from torch import Tensor

from efface.evaluation.measured import Measured, by_label, number

_BINARY = (
    "statistical_parity_difference",
    "disparate_impact",
    "equal_opportunity_difference",
    "average_odds_difference",
    "theil_index",
)


def measure(y_pred: Tensor, y: Tensor, a: Tensor, share: Tensor, aligned: Tensor) -> Measured:
    """Measure the predictions of one split.

    Args:
        y_pred, y, a: `[n]`.
        share: of each group in train, `[K, A]`.
        aligned: which groups are bias-aligned, `[K, A]` bool.
    """
    n_classes, n_attributes = aligned.shape
    counts = count(y, a, y_pred, n_classes, n_attributes)
    scalars = Measured.from_values(
        metrics(counts, share, aligned), lambda name: _why_null(name, n_classes, n_attributes)
    )
    per_group = accuracies(counts)
    groups = [(i, j) for i in range(n_classes) for j in range(n_attributes)]
    tables = {
        "group_accuracy": {f"y={i},a={j}": number(per_group[i, j]) for i, j in groups},
        "tpr_gap": by_label(true_positive_gaps(counts).tolist()),
    }
    return scalars | Measured(tables)


def count(y: Tensor, a: Tensor, y_pred: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """Count the samples of each (y, a, y_pred): `[K, A, K]` float64."""
    cells = cell_numbers(y, a, y_pred, n_classes, n_attributes)
    counts = torch.bincount(cells, minlength=n_classes * n_attributes * n_classes)
    return counts.view(n_classes, n_attributes, n_classes).to(torch.float64)


def cell_numbers(y: Tensor, a: Tensor, y_pred: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """Return the place of each sample's (y, a, y_pred) in a flattened table of counts, `[n]`."""
    return (y * n_attributes + a) * n_classes + y_pred


def accuracies(counts: Tensor) -> Tensor:
    """Return the accuracy within each group, `[..., K, A]`, of tables `[..., K, A, K]`; NaN where a group is empty."""
    return _hits(counts) / counts.sum(-1)


def metrics(counts: Tensor, share: Tensor, aligned: Tensor) -> dict[str, Tensor]:
    """Return all metrics that are one number, each `[...]`.

    `unbiased_accuracy` and `worst_group_accuracy` are the unweighted mean and the minimum over the groups that are not
    empty; `bias_aligned_accuracy` and `bias_conflicting_accuracy` pool the samples of those groups.

    Args:
        counts: `[..., K, A, K]`, as of `count`.
        share: of each group in train, `[K, A]`.
        aligned: which groups are bias-aligned, `[K, A]` bool.
    """
    n, hits, accuracy = counts.sum(-1), _hits(counts), accuracies(counts)
    filled = n > 0
    # Group DRO's average over the groups as they are in train; of those that have samples here.
    adjusted = (share * accuracy).nansum((-2, -1)) / (share * filled).sum((-2, -1))
    return {
        "accuracy": hits.sum((-2, -1)) / n.sum((-2, -1)),
        "unbiased_accuracy": accuracy.flatten(-2).nanmean(-1),
        "worst_group_accuracy": torch.where(filled, accuracy, torch.inf).amin((-2, -1)),
        "group_adjusted_accuracy": adjusted,
        "bias_aligned_accuracy": (hits * aligned).sum((-2, -1)) / (n * aligned).sum((-2, -1)),
        "bias_conflicting_accuracy": (hits * ~aligned).sum((-2, -1)) / (n * ~aligned).sum((-2, -1)),
        **_gaps(accuracy, share),
        **_binary(counts),
    }


def true_positive_gaps(counts: Tensor) -> Tensor:
    """Return TPR under a = 0 minus TPR under a = 1 for each label, `[..., K]`; NaN where a has not two values."""
    accuracy = accuracies(counts)
    if accuracy.shape[-1] != 2:
        return accuracy.new_full(accuracy.shape[:-1], torch.nan)
    return accuracy[..., 0] - accuracy[..., 1]


def _hits(counts: Tensor) -> Tensor:
    return counts.diagonal(dim1=-3, dim2=-1).mT


def _gaps(accuracy: Tensor, share: Tensor) -> dict[str, Tensor]:
    """Compute the RMS of the TPR gaps, and their correlation with the share of a = 0 in each label in train."""
    undefined = accuracy.new_full(accuracy.shape[:-2], torch.nan)
    if accuracy.shape[-1] != 2:
        return {"tpr_gap_rms": undefined, "tpr_gap_correlation": undefined}
    gap = accuracy[..., 0] - accuracy[..., 1]
    known = ~gap.isnan() & (share.sum(1) > 0)
    weight = known.to(gap.dtype) / known.sum(-1, keepdim=True)
    gap = torch.where(known, gap, 0)
    share_of_zero = torch.where(share.sum(1) > 0, share[:, 0] / share.sum(1), 0)
    dx = gap - (weight * gap).sum(-1, keepdim=True)
    dy = share_of_zero - (weight * share_of_zero).sum(-1, keepdim=True)
    spread = ((weight * dx * dx).sum(-1) * (weight * dy * dy).sum(-1)).sqrt()
    # Of two labels a correlation is 1 or −1 whatever the gaps.
    correlation = torch.where((known.sum(-1) > 2) & (spread > 1e-12), (weight * dx * dy).sum(-1) / spread, torch.nan)
    return {"tpr_gap_rms": (weight * gap * gap).sum(-1).sqrt(), "tpr_gap_correlation": correlation}


def _binary(counts: Tensor) -> dict[str, Tensor]:
    """Compute AIF360's metrics for a binary label and attribute."""
    if counts.shape[-3:] != (2, 2, 2):
        return dict.fromkeys(_BINARY, counts.new_full(counts.shape[:-3], torch.nan))
    selected = counts[..., 1].sum(-2) / counts.sum((-3, -1))  # P(y_pred = 1 | a)
    rates = counts[..., 1] / counts.sum(-1)  # P(y_pred = 1 | y, a): FPR and TPR
    fpr_gap, tpr_gap = (rates[..., 0] - rates[..., 1]).unbind(-1)
    ratio = torch.where(selected[..., 1] > 0, selected[..., 0] / selected[..., 1], torch.nan)
    # Benefit b = y_pred − y + 1 of 0, 1 or 2, and the generalised entropy of its distribution with α = 1.
    share = counts.sum(-2) / counts.sum((-3, -2, -1))[..., None, None]
    ones, twos = share[..., 0, 0] + share[..., 1, 1], share[..., 0, 1]
    mean = ones + 2 * twos
    theil = (torch.special.xlogy(ones, 1 / mean) + torch.special.xlogy(2 * twos, 2 / mean)) / mean
    values = (selected[..., 0] - selected[..., 1], ratio, tpr_gap, (fpr_gap + tpr_gap) / 2, theil)
    return dict(zip(_BINARY, values, strict=True))


def _why_null(name: str, n_classes: int, n_attributes: int) -> str:
    if name in _BINARY and (n_classes, n_attributes) != (2, 2):
        return "defined for a binary label and a binary attribute"
    if name.startswith("tpr_gap") and n_attributes != 2:
        return "defined for a binary attribute"
    if name == "tpr_gap_correlation" and n_classes == 2:
        return "of fewer than three labels a correlation says nothing"
    empty = {
        "disparate_impact": "no one under a = 1 is given label 1",
        "bias_aligned_accuracy": "no sample is bias-aligned",
        "bias_conflicting_accuracy": "no sample is bias-conflicting",
    }
    return empty.get(name, "a group that it compares has no sample")
