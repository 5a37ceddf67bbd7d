"""Figures that depend on the table of (y, a, y_pred) alone: accuracies of groups, and gaps between them.

Tables may be stacked, `[..., K, A, K]`, so that a bootstrap computes all of its replicates at once. What is not defined
is NaN. The binary figures are AIF360's, with a = 1 privileged and label 1 favourable, and are equal to its
`ClassificationMetric` (tested); they are not called from it because a replicate is a table here and a data set there,
and because importing its metrics takes a second and logs what else one could install.
"""

import torch
from torch import Tensor


def table(y: Tensor, a: Tensor, y_pred: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """Samples of each (y, a, y_pred), `[K, A, K]` float64."""
    cells = cell(y, a, y_pred, n_classes, n_attributes)
    counts = torch.bincount(cells, minlength=n_classes * n_attributes * n_classes)
    return counts.view(n_classes, n_attributes, n_classes).to(torch.float64)


def cell(y: Tensor, a: Tensor, y_pred: Tensor, n_classes: int, n_attributes: int) -> Tensor:
    """The flat index `[n]` of each sample's cell in a table."""
    return (y * n_attributes + a) * n_classes + y_pred


def accuracies(counts: Tensor) -> Tensor:
    """Accuracy within each group, `[..., K, A]`, of tables `[..., K, A, K]`; NaN where a group is empty."""
    return _hits(counts) / counts.sum(-1)


def figures(counts: Tensor, share: Tensor, aligned: Tensor) -> dict[str, Tensor]:
    """All scalar figures, each `[...]`.

    Args:
        counts: tables `[..., K, A, K]`.
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
    """TPR under a = 0 minus TPR under a = 1 for each label, `[..., K]`; NaN where a has not two values."""
    accuracy = accuracies(counts)
    if accuracy.shape[-1] != 2:
        return accuracy.new_full(accuracy.shape[:-1], torch.nan)
    return accuracy[..., 0] - accuracy[..., 1]


def _hits(counts: Tensor) -> Tensor:
    return counts.diagonal(dim1=-3, dim2=-1).mT


def _gaps(accuracy: Tensor, share: Tensor) -> dict[str, Tensor]:
    """TPR-gap RMS, and the gaps' correlation with the share of a = 0 in each label in train."""
    nothing = accuracy.new_full(accuracy.shape[:-2], torch.nan)
    if accuracy.shape[-1] != 2:
        return {"tpr_gap_rms": nothing, "tpr_gap_correlation": nothing}
    gap = accuracy[..., 0] - accuracy[..., 1]
    known = ~gap.isnan() & (share.sum(1) > 0)
    weight = known.to(gap.dtype) / known.sum(-1, keepdim=True)
    gap = torch.where(known, gap, 0)
    of_zero = torch.where(share.sum(1) > 0, share[:, 0] / share.sum(1), 0)
    dx = gap - (weight * gap).sum(-1, keepdim=True)
    dy = of_zero - (weight * of_zero).sum(-1, keepdim=True)
    spread = ((weight * dx * dx).sum(-1) * (weight * dy * dy).sum(-1)).sqrt()
    # Of two labels a correlation is 1 or −1 whatever the gaps.
    correlation = torch.where((known.sum(-1) > 2) & (spread > 1e-12), (weight * dx * dy).sum(-1) / spread, torch.nan)
    return {"tpr_gap_rms": (weight * gap * gap).sum(-1).sqrt(), "tpr_gap_correlation": correlation}


def _binary(counts: Tensor) -> dict[str, Tensor]:
    """AIF360's figures for a binary label and attribute."""
    names = ("statistical_parity_difference", "disparate_impact", "equal_opportunity_difference",
             "average_odds_difference", "theil_index")  # fmt: skip
    if counts.shape[-3:] != (2, 2, 2):
        nothing = counts.new_full(counts.shape[:-3], torch.nan)
        return dict.fromkeys(names, nothing)
    selected = counts[..., 1].sum(-2) / counts.sum((-3, -1))  # P(y_pred = 1 | a)
    rates = counts[..., 1] / counts.sum(-1)  # P(y_pred = 1 | y, a): FPR and TPR
    fpr_gap, tpr_gap = (rates[..., 0] - rates[..., 1]).unbind(-1)
    ratio = torch.where(selected[..., 1] > 0, selected[..., 0] / selected[..., 1], torch.nan)
    # Benefit b = y_pred − y + 1 of 0, 1 or 2, and the generalised entropy of its distribution with α = 1.
    share = counts.sum(-2) / counts.sum((-3, -2, -1))[..., None, None]
    ones, twos = share[..., 0, 0] + share[..., 1, 1], share[..., 0, 1]
    mean = ones + 2 * twos
    theil = (torch.special.xlogy(ones, 1 / mean) + torch.special.xlogy(2 * twos, 2 / mean)) / mean
    return dict(
        zip(
            names, (selected[..., 0] - selected[..., 1], ratio, tpr_gap, (fpr_gap + tpr_gap) / 2, theil), strict=True
        )
    )  # fmt: skip
