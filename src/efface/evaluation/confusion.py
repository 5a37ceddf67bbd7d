"""What a split's predictions are worth by their counts of (y, a, y_pred): see `efface.metrics.counts`."""

import torch
from torch import Tensor

from efface.evaluation.measured import Measured, by_label, number
from efface.metrics import counts as of_counts


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
    per_group = of_counts.accuracies(counts)
    groups = [(i, j) for i in range(n_classes) for j in range(n_attributes)]
    tables = {
        "group_accuracy": {f"y={i},a={j}": number(per_group[i, j]) for i, j in groups},
        "tpr_gap": by_label(of_counts.true_positive_gaps(counts).tolist()),
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


def metrics(counts: Tensor, share: Tensor, aligned: Tensor) -> dict[str, Tensor]:
    """Return all metrics that are one number, each `[...]`.

    Args:
        counts: `[..., K, A, K]`, as of `count`.
        share: of each group in train, `[K, A]`.
        aligned: which groups are bias-aligned, `[K, A]` bool.
    """
    return of_counts.metrics(counts) | of_counts.against_train(counts, share, aligned)


def _why_null(name: str, n_classes: int, n_attributes: int) -> str:
    if name in of_counts.BINARY and (n_classes, n_attributes) != (2, 2):
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
