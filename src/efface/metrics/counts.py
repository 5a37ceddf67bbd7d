"""Metrics that depend on the counts of (y, a, y_pred) alone: accuracies of groups, and gaps between them.

One set of formulas for evaluation, which has torch tensors, and for reports, which have NumPy arrays and load no torch:
they take either, and return what they took. Tables of counts may be stacked, `[..., K, A, K]`, so that a bootstrap
computes all of its replicates at once. What is not defined is NaN. The binary metrics are AIF360's, with a = 1
privileged and label 1 favourable, and are equal to its `ClassificationMetric` (tested). They are not called from it
because a replicate is a table here and a data set there, and because importing its metrics takes a second and logs what
else one could install.

A further metric of such counts needs an entry in `metrics` or `against_train`, one in `efface.evaluation.confusion` on
why it is null if it can be undefined, and its description in `efface.metrics`.
"""

import sys
from typing import Any, TypeVar

Array = TypeVar("Array")
"""A torch tensor or a NumPy array."""

BINARY = (
    "statistical_parity_difference",
    "disparate_impact",
    "equal_opportunity_difference",
    "average_odds_difference",
    "theil_index",
)
"""Those that need a binary label and attribute."""


def metrics(counts: Array) -> dict[str, Array]:
    """Return the metrics that counts alone tell, each `[...]`, of tables `[..., K, A, K]`.

    `unbiased_accuracy` and `worst_group_accuracy` are the unweighted mean and the minimum over the groups that are not
    empty. `tpr_gap_rms` is over the labels of which both values of the attribute occur.
    """
    table: Any = counts
    xp = _namespace(table)
    n, hits, accuracy = table.sum(-1), _hits(table), accuracies(table)
    return {
        "accuracy": hits.sum((-2, -1)) / n.sum((-2, -1)),
        "unbiased_accuracy": xp.nanmean(accuracy.reshape(*accuracy.shape[:-2], -1), axis=-1),
        "worst_group_accuracy": xp.amin(xp.where(n > 0, accuracy, float("inf")), axis=(-2, -1)),
        "tpr_gap_rms": _gap_rms(true_positive_gaps(table)),
        **_binary(table),
    }


def against_train(counts: Array, share: Array, aligned: Array) -> dict[str, Array]:
    """Return the metrics that also need the groups' sizes in train, each `[...]`.

    `bias_aligned_accuracy` and `bias_conflicting_accuracy` pool the samples of those groups.

    Args:
        counts: `[..., K, A, K]`.
        share: of each group in train, `[K, A]`.
        aligned: which groups are bias-aligned, `[K, A]` bool.
    """
    table: Any = counts
    of_train: Any = share
    among: Any = aligned
    n, hits, accuracy = table.sum(-1), _hits(table), accuracies(table)
    # Group DRO's average over the groups as they are in train; of those that have samples here.
    adjusted = _namespace(table).nansum(of_train * accuracy, axis=(-2, -1)) / (of_train * (n > 0)).sum((-2, -1))
    return {
        "group_adjusted_accuracy": adjusted,
        "bias_aligned_accuracy": (hits * among).sum((-2, -1)) / (n * among).sum((-2, -1)),
        "bias_conflicting_accuracy": (hits * ~among).sum((-2, -1)) / (n * ~among).sum((-2, -1)),
        "tpr_gap_correlation": _gap_correlation(true_positive_gaps(table), of_train),
    }


def accuracies(counts: Array) -> Array:
    """Return the accuracy within each group, `[..., K, A]`, of tables `[..., K, A, K]`; NaN where a group is empty."""
    table: Any = counts
    return _hits(table) / table.sum(-1)  # type: ignore[no-any-return]


def true_positive_gaps(counts: Array) -> Array:
    """Return TPR under a = 0 minus TPR under a = 1 for each label, `[..., K]`; NaN where a has not two values."""
    accuracy: Any = accuracies(counts)
    if accuracy.shape[-1] != 2:
        return _undefined(accuracy[..., 0])  # type: ignore[no-any-return]
    return accuracy[..., 0] - accuracy[..., 1]  # type: ignore[no-any-return]


def mean_score_gap(sums: Array, sizes: Array) -> Array:
    """Return the mean over labels of |E[p_y | y, a = 0] − E[p_y | y, a = 1]|, `[...]`, over the labels that have both.

    Args:
        sums: of p_y in each group, `[K, 2, ...]`.
        sizes: of the groups, `[K, 2, ...]`.
    """
    means: Any = sums / sizes  # type: ignore[operator]
    xp = _namespace(means)
    return xp.nanmean(xp.abs(means[:, 0] - means[:, 1]), axis=0)  # type: ignore[no-any-return]


def _namespace(array: Any) -> Any:
    """Return the library of an array, of whose functions only those are called that torch and NumPy share."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _undefined(like: Any) -> Any:
    return _namespace(like).full_like(like, float("nan"))


def _hits(counts: Any) -> Any:
    xp = _namespace(counts)
    return xp.swapaxes(xp.diagonal(counts, 0, -3, -1), -1, -2)


def _known(gap: Any) -> Any:
    return ~_namespace(gap).isnan(gap)


def _even(known: Any, like: Any) -> Any:
    """Return weights over the last axis, alike where `known` and 0 elsewhere, in the precision of `like`."""
    return _namespace(like).ones_like(like) * known / known.sum(-1)[..., None]


def _gap_rms(gap: Any) -> Any:
    xp, known = _namespace(gap), _known(gap)
    weight = _even(known, gap)
    gap = xp.where(known, gap, 0.0)
    return xp.sqrt((weight * gap * gap).sum(-1))


def _gap_correlation(gap: Any, share: Any) -> Any:
    """Return the correlation of the TPR gaps `[..., K]` with the share of a = 0 in each label in train."""
    if share.shape[1] != 2:
        return _undefined(gap[..., 0])
    xp = _namespace(gap)
    known = _known(gap) & (share.sum(1) > 0)
    weight = _even(known, gap)
    gap = xp.where(known, gap, 0.0)
    share_of_zero = xp.where(share.sum(1) > 0, share[:, 0] / share.sum(1), 0.0)
    dx = gap - (weight * gap).sum(-1)[..., None]
    dy = share_of_zero - (weight * share_of_zero).sum(-1)[..., None]
    spread = xp.sqrt((weight * dx * dx).sum(-1) * (weight * dy * dy).sum(-1))
    # Of two labels a correlation is 1 or −1 whatever the gaps.
    return xp.where((known.sum(-1) > 2) & (spread > 1e-12), (weight * dx * dy).sum(-1) / spread, float("nan"))


def _binary(counts: Any) -> dict[str, Any]:
    """Compute AIF360's metrics for a binary label and attribute."""
    xp = _namespace(counts)
    if counts.shape[-3:] != (2, 2, 2):
        return dict.fromkeys(BINARY, _undefined(counts.sum((-3, -2, -1))))
    selected = counts[..., 1].sum(-2) / counts.sum((-3, -1))  # P(y_pred = 1 | a)
    rates = counts[..., 1] / counts.sum(-1)  # P(y_pred = 1 | y, a): FPR and TPR
    gaps = rates[..., 0] - rates[..., 1]
    fpr_gap, tpr_gap = gaps[..., 0], gaps[..., 1]
    ratio = xp.where(selected[..., 1] > 0, selected[..., 0] / selected[..., 1], float("nan"))
    # Benefit b = y_pred − y + 1 of 0, 1 or 2, and the generalised entropy of its distribution with α = 1.
    share = counts.sum(-2) / counts.sum((-3, -2, -1))[..., None, None]
    ones, twos = share[..., 0, 0] + share[..., 1, 1], share[..., 0, 1]
    mean = ones + 2 * twos
    theil = (_x_log_y(ones, 1 / mean) + _x_log_y(2 * twos, 2 / mean)) / mean
    values = (selected[..., 0] - selected[..., 1], ratio, tpr_gap, (fpr_gap + tpr_gap) / 2, theil)
    return dict(zip(BINARY, values, strict=True))


def _x_log_y(x: Any, y: Any) -> Any:
    """Return x ln y, and 0 where x is 0: torch's function, to the bit, where there is one; NumPy has none."""
    xp = _namespace(x)
    return xp.xlogy(x, y) if hasattr(xp, "xlogy") else xp.where(x > 0, x * xp.log(y), 0.0)
