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
    direction: Literal["higher", "lower", "zero", "one", ""]
    """Which side is better, or which value is fair; empty if neither."""
    per: Literal["", "group", "label"] = ""
    """Where the record holds a dict of figures: what its keys stand for."""


_AIF360 = "AIF360 (Bellamy et al., 2018), ClassificationMetric"
_DRO = "Sagawa et al., 2020 (group DRO)"
_LEACE = "Belrose et al., 2023 (LEACE)"

METRICS: tuple[Metric, ...] = (
    Metric("accuracy", "accuracy", "P(ŷ = y)", "", "higher"),
    Metric(
        "unbiased_accuracy",
        "unbiased acc.",
        "unweighted mean over the non-empty groups (y, a) of P(ŷ = y | y, a)",
        "Nam et al., 2020 (Learning from Failure)",
        "higher",
    ),
    Metric(
        "worst_group_accuracy",
        "worst-group acc.",
        "minimum over the non-empty groups of P(ŷ = y | y, a)",
        _DRO,
        "higher",
    ),
    Metric(
        "group_adjusted_accuracy",
        "group-adj. acc.",
        "Σ over the non-empty groups of P(ŷ = y | y, a), weighted by the group's share of train, weights summing to 1",
        f"{_DRO}, average accuracy",
        "higher",
    ),
    Metric(
        "bias_conflicting_accuracy",
        "conflicting acc.",
        "P(ŷ = y) over the groups with P(y, a) ≤ P(y) P(a) in train",
        "Chen et al., 2023 (Fast Model Debias)",
        "higher",
    ),
    Metric(
        "bias_aligned_accuracy",
        "aligned acc.",
        "P(ŷ = y) over the groups with P(y, a) > P(y) P(a) in train",
        "Chen et al., 2023 (Fast Model Debias)",
        "higher",
    ),
    Metric("group_accuracy", "group acc.", "P(ŷ = y | y, a)", "", "higher", "group"),
    Metric(
        "bits_per_byte",
        "bits per byte",
        "of a language model: −log₂ p of the text over its length in UTF-8 bytes",
        f"{_LEACE}, table 1",
        "lower",
    ),
    Metric(
        "counterfactual_bias",
        "counterf. bias",
        "E |p_y(x, a) − p_y(x, a′)|, p_y the probability of the true label; null where no counterfactual of a sample "
        "exists",
        "Chen et al., 2023 (Fast Model Debias)",
        "lower",
    ),
    Metric(
        "conditional_score_gap",
        "score gap",
        "E[p_y | y, a = 0] − E[p_y | y, a = 1]; binary a",
        "",
        "zero",
        "label",
    ),
    Metric(
        "conditional_score_gap_mean_abs",
        "score gap, mean |·|",
        "mean over labels of |score gap|; binary a",
        "",
        "lower",
    ),
    Metric(
        "score_energy_distance",
        "score energy dist.",
        "(2 ∫ (F − G)²)^½, F and G the distribution functions of p_y given y under two values of a; mean over pairs of "
        "values; 0 if and only if the laws are equal",
        "Székely & Rizzo, 2013",
        "lower",
        "label",
    ),
    Metric(
        "score_energy_distance_mean",
        "score energy dist., mean",
        "mean over labels of the score energy distance",
        "Székely & Rizzo, 2013",
        "lower",
    ),
    Metric(
        "statistical_parity_difference",
        "stat. parity diff.",
        "P(ŷ = 1 | a = 0) − P(ŷ = 1 | a = 1); binary y and a, a = 1 privileged, label 1 favourable",
        _AIF360,
        "zero",
    ),
    Metric(
        "disparate_impact", "disparate impact", "P(ŷ = 1 | a = 0) / P(ŷ = 1 | a = 1); binary y and a", _AIF360, "one"
    ),
    Metric(
        "equal_opportunity_difference",
        "equal opp. diff.",
        "P(ŷ = 1 | y = 1, a = 0) − P(ŷ = 1 | y = 1, a = 1); binary y and a",
        _AIF360,
        "zero",
    ),
    Metric(
        "average_odds_difference",
        "avg. odds diff.",
        "mean over y = 0, 1 of P(ŷ = 1 | y, a = 0) − P(ŷ = 1 | y, a = 1); binary y and a",
        _AIF360,
        "zero",
    ),
    Metric(
        "theil_index", "Theil index", "E[(b / μ) ln(b / μ)], b = ŷ − y + 1, μ = E b; binary y and a", _AIF360, "lower"
    ),
    Metric(
        "tpr_gap",
        "TPR gap",
        "P(ŷ = y | y, a = 0) − P(ŷ = y | y, a = 1); binary a",
        "De-Arteaga et al., 2019",
        "zero",
        "label",
    ),
    Metric(
        "tpr_gap_rms",
        "TPR gap, RMS",
        "(mean over labels of the squared TPR gap)^½; binary a",
        "Ravfogel et al., 2020 and 2022 (INLP, R-LACE)",
        "lower",
    ),
    Metric(
        "tpr_gap_correlation",
        "TPR gap corr.",
        "correlation over labels of the TPR gap with P(a = 0 | y) in train; binary a, three labels or more",
        "De-Arteaga et al., 2019; Ravfogel et al., 2020",
        "zero",
    ),
    Metric(
        "probe_information",
        "probe info., bits",
        "H(a) − held-out cross-entropy, in bits, of a converged softmax regression of a on the represented features: "
        "trained on one half of the split, scored on the other (by identity where there are identities), inputs scaled "
        "by the un-erased features of train, penalty chosen within its half; slightly negative where there is nothing "
        "to read; null (underpowered) where a probe of the un-erased features is not 5 points above the majority",
        f"Xu et al., 2020 (V-information); {_LEACE}, guardedness",
        "lower",
    ),
    Metric("probe_accuracy", "probe acc.", "held-out accuracy of that probe; at best the majority", _LEACE, "lower"),
    Metric("probe_majority", "majority", "accuracy of the best constant guess on the same half", "", ""),
    Metric(
        "probe_macro_recall",
        "probe macro recall",
        "mean over the values of a of that probe's accuracy on them (balanced accuracy); 1 / (values of a) for a "
        "constant guess, also where one value is rare",
        "",
        "lower",
    ),
    Metric(
        "probe_auc",
        "probe AUC",
        "area under the ROC curve of that probe, .5 where nothing is left; binary a",
        "",
        "lower",
    ),
    Metric(
        "balanced_probe_information",
        "bal. probe info., bits",
        "probe information under the law in which all groups (y, a) are equally frequent, for training and scoring; "
        "null where y and a are independent in the split, or a group is too small. An eraser fitted under the natural "
        "law need not bring it to 0",
        "",
        "lower",
    ),
    Metric(
        "balanced_probe_accuracy",
        "bal. probe acc.",
        "accuracy of that probe under the balanced law; at best 1 / (values of a)",
        "",
        "lower",
    ),
    Metric("balanced_probe_auc", "bal. probe AUC", "its area under the ROC curve; binary a", "", "lower"),
    Metric(
        "mlp_probe_information",
        "MLP probe, bits",
        "probe information of a network with one hidden layer, stopped within its half: a lower bound of what is left "
        "that is not linear",
        "Xu et al., 2020 (V-information)",
        "lower",
    ),
    Metric(
        "max_abs_cov",
        "max |cov|",
        "largest |Cov(represented x, one-hot a)| on the samples fitted on, under their weights",
        _LEACE,
        "lower",
    ),
    Metric(
        "feature_shift",
        "feature shift",
        "E‖Tx − x‖² / E‖x − μ‖²: 0 unchanged, 1 as far as to the mean",
        _LEACE,
        "lower",
    ),
)
"""Intervals (`record.metrics_ci`) are 95 % percentile bootstrap intervals over the samples of test, or over whole
identities where there are identities, with model and probe held fixed."""


def objective_direction(name: str) -> Literal["higher", "lower", "zero", "one"]:
    """Return which side of a metric is better, or which value is fair, for a sweeper that is to tune it.

    Raises:
        ValueError: no metric has this name, or it has no better side, or more than one value.
    """
    directions = {metric.key: metric.direction for metric in METRICS if not metric.per}
    direction = directions.get(name)
    if not direction:
        names = ", ".join(key for key, side in directions.items() if side)
        raise ValueError(f"objective is {name!r}, but must be one of {names}")
    return direction
