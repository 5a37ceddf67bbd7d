"""What every figure of the tables means: its key in a record, heading, formula, source and better direction."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One figure of a record's `metrics`. Tables show metrics in the order of `METRICS`."""

    key: str
    """Its name in a record."""
    heading: str
    """In a table, without arrow."""
    formula: str
    """What it is, in one sentence."""
    source: str
    """The paper or package whose definition it is; empty if it is ours."""
    direction: Literal["higher", "lower", ""]
    """Which side is better; empty if neither is."""


METRICS: tuple[Metric, ...] = (
    Metric("accuracy", "accuracy", "share of test samples whose most probable label is the true one", "", "higher"),
    Metric(
        "unbiased_accuracy", "unbiased acc.",
        "unweighted mean of the accuracies of the groups (label × attribute) that are not empty",
        "Sagawa et al., 2020, arXiv 1911.08731", "higher",
    ),
    Metric(
        "worst_group_accuracy", "worst-group acc.", "minimum of the accuracies of the groups that are not empty",
        "Sagawa et al., 2020, arXiv 1911.08731", "higher",
    ),
    Metric(
        "bias_conflicting_accuracy", "conflicting acc.",
        "accuracy over the samples of groups with P(y, a) ≤ P(y) P(a) on train", "", "higher",
    ),
    Metric(
        "bias_aligned_accuracy", "aligned acc.",
        "accuracy over the samples of groups with P(y, a) > P(y) P(a) on train", "", "higher",
    ),
    Metric(
        "counterfactual_bias", "counterf. bias",
        "mean of |p_y(x, a) − p_y(x, a′)| over samples shown under another attribute, p_y the probability of the true "
        "label", "Chen et al., 2023, arXiv 2310.12560", "lower",
    ),
    Metric(
        "probe_information", "probe info., bits",
        "H(a) minus the held-out cross-entropy, in bits, of a converged softmax regression for the attribute, trained "
        "on one half of the test features and scored on the other, inputs scaled by the un-erased training features, "
        "penalty chosen within its own half; it may be slightly negative", "", "lower",
    ),
    Metric("probe_accuracy", "probe acc.", "accuracy of the same probe, to be read beside the majority", "", "lower"),
    Metric("probe_majority", "majority", "share of the most frequent value of the attribute in that half", "", ""),
    Metric(
        "mlp_probe_information", "MLP probe, bits",
        "the same of a network with one hidden layer: linear erasure removes linear information only", "", "lower",
    ),
    Metric(
        "max_abs_cov", "max |Cov(x, a)|",
        "largest covariance of a feature with a value of the attribute, on the data that the method was fitted on",
        "Belrose et al., 2023, arXiv 2306.03819", "lower",
    ),
    Metric(
        "feature_shift", "feature shift", "E‖Tx − x‖² / E‖x − μ‖²: 0 if the features are as they were", "", "",
    ),
)  # fmt: skip
