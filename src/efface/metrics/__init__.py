"""What every metric means: its key in a record, heading, formula, source, better side, and why it may be undefined.

Standard library only: evaluation, the command line and reports all read it.
"""

import difflib
from collections.abc import Iterable

from efface.metrics.attacks import ATTACKS
from efface.metrics.metric import EMPTY_GROUP, PROBES_OFF, Direction, Metric
from efface.metrics.stereotypes import STEREOTYPES

_AIF360 = "AIF360 (Bellamy et al., 2018), ClassificationMetric"
_DRO = "Sagawa et al., 2020 (group DRO)"
_CALISKAN = "Caliskan, Bryson & Narayanan, 2017 (WEAT); roles as in Ravfogel et al., 2022"
_LEACE = "Belrose et al., 2023 (LEACE)"

_NO_WORDS = "too few of its words have a vector"
_WEAT = {6: ("career", "family"), 7: ("mathematics", "arts"), 8: ("science", "arts")}
"""What first names are associated with."""

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
        undefined="no sample is bias-conflicting",
    ),
    Metric(
        "bias_aligned_accuracy",
        "aligned acc.",
        "P(ŷ = y) over the groups with P(y, a) > P(y) P(a) in train",
        "Chen et al., 2023 (Fast Model Debias)",
        "higher",
        undefined="no sample is bias-aligned",
    ),
    Metric("group_accuracy", "group acc.", "P(ŷ = y | y, a)", "", "higher", "group"),
    Metric(
        "bits_per_byte",
        "bits per byte",
        "of a language model: −log₂ p of the text over its length in UTF-8 bytes",
        f"{_LEACE}, table 1",
        "lower",
        undefined="an encoder predicts no next token, so it has no bits per byte",
    ),
    Metric(
        "counterfactual_bias",
        "counterf. bias",
        "E |p_y(x, a) − p_y(x, a′)|, p_y the probability of the true label; null where no counterfactual of a sample "
        "exists",
        "Chen et al., 2023 (Fast Model Debias)",
        "lower",
        undefined="no counterfactual of a sample exists in these data",
    ),
    Metric(
        "conditional_score_gap",
        "score gap",
        "E[p_y | y, a = 0] − E[p_y | y, a = 1]; binary a",
        "",
        "zero",
        "label",
        needs="binary attribute",
    ),
    Metric(
        "conditional_score_gap_mean_abs",
        "score gap, mean |·|",
        "mean over labels of |score gap|; binary a",
        "",
        "lower",
        needs="binary attribute",
    ),
    Metric(
        "score_energy_distance",
        "score energy dist.",
        "(2 ∫ (F − G)²)^½, F and G the distribution functions of p_y given y under two values of a; mean over pairs of "
        "values; 0 if and only if the distributions are equal",
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
        needs="binary label and attribute",
    ),
    Metric(
        "disparate_impact",
        "disparate impact",
        "P(ŷ = 1 | a = 0) / P(ŷ = 1 | a = 1); binary y and a",
        _AIF360,
        "one",
        needs="binary label and attribute",
        undefined="no one under a = 1 is given label 1",
    ),
    Metric(
        "equal_opportunity_difference",
        "equal opp. diff.",
        "P(ŷ = 1 | y = 1, a = 0) − P(ŷ = 1 | y = 1, a = 1); binary y and a",
        _AIF360,
        "zero",
        needs="binary label and attribute",
    ),
    Metric(
        "average_odds_difference",
        "avg. odds diff.",
        "mean over y = 0, 1 of P(ŷ = 1 | y, a = 0) − P(ŷ = 1 | y, a = 1); binary y and a",
        _AIF360,
        "zero",
        needs="binary label and attribute",
    ),
    Metric(
        "theil_index",
        "Theil index",
        "E[(b / μ) ln(b / μ)], b = ŷ − y + 1, μ = E b; binary y and a",
        _AIF360,
        "lower",
        needs="binary label and attribute",
    ),
    Metric(
        "tpr_gap",
        "TPR gap",
        "P(ŷ = y | y, a = 0) − P(ŷ = y | y, a = 1); binary a",
        "De-Arteaga et al., 2019",
        "zero",
        "label",
        needs="binary attribute",
    ),
    Metric(
        "tpr_gap_rms",
        "TPR gap, RMS",
        "(mean over labels of the squared TPR gap)^½; binary a",
        "Ravfogel et al., 2020 and 2022 (INLP, R-LACE)",
        "lower",
        needs="binary attribute",
    ),
    Metric(
        "tpr_gap_correlation",
        "TPR gap corr.",
        "correlation over labels of the TPR gap with P(a = 0 | y) in train; binary a, three labels or more",
        "De-Arteaga et al., 2019; Ravfogel et al., 2020",
        "zero",
        needs="binary attribute, three labels",
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
        undefined=PROBES_OFF,
    ),
    Metric(
        "probe_accuracy",
        "probe acc.",
        "held-out accuracy of that probe; at best the majority",
        _LEACE,
        "lower",
        undefined=PROBES_OFF,
    ),
    Metric(
        "probe_majority",
        "majority",
        "accuracy of the best constant guess on the same half",
        "",
        "",
        undefined=PROBES_OFF,
    ),
    Metric(
        "probe_macro_recall",
        "probe macro recall",
        "mean over the values of a of that probe's accuracy on them (balanced accuracy); 1 / (values of a) for a "
        "constant guess, also where one value is rare",
        "",
        "lower",
        undefined=PROBES_OFF,
    ),
    Metric(
        "probe_auc",
        "probe AUC",
        "area under the ROC curve of that probe, .5 where nothing is left; binary a",
        "",
        "lower",
        needs="binary attribute",
        undefined=PROBES_OFF,
    ),
    Metric(
        "balanced_probe_information",
        "bal. probe info., bits",
        "probe information where all groups (y, a) are made equally frequent by weights, for training and scoring; "
        "null where y and a are independent in the split, or a group is too small. An eraser fitted under the natural "
        "distribution need not bring it to 0",
        "",
        "lower",
        undefined=PROBES_OFF,
    ),
    Metric(
        "balanced_probe_accuracy",
        "bal. probe acc.",
        "accuracy of that probe under the balanced distribution; at best 1 / (values of a)",
        "",
        "lower",
        undefined=PROBES_OFF,
    ),
    Metric(
        "balanced_probe_auc",
        "bal. probe AUC",
        "its area under the ROC curve; binary a",
        "",
        "lower",
        needs="binary attribute",
        undefined=PROBES_OFF,
    ),
    Metric(
        "mlp_probe_information",
        "MLP probe, bits",
        "probe information of a network with one hidden layer, stopped within its half: a lower bound of what is left "
        "that is not linear",
        "Xu et al., 2020 (V-information)",
        "lower",
        undefined="the non-linear probe is switched off (evaluation.mlp_probe)",
    ),
    Metric(
        "svm_probe_accuracy",
        "SVM probe acc.",
        "held-out accuracy of a support vector machine with a radial kernel, on the halves of the linear probe",
        "Ravfogel et al., 2022 (R-LACE)",
        "lower",
        undefined="the kernel probe is switched off (evaluation.svm_probe)",
    ),
    *ATTACKS,
    *(
        metric
        for number, (a, b) in _WEAT.items()
        for metric in (
            Metric(
                f"weat{number}_d",
                f"WEAT {number}, d",
                "mean over male minus mean over female first names of s, over the deviation of s over both (ddof 0), s "
                f"the mean cosine with words of {a} minus that with words of {b}; debiased vectors",
                _CALISKAN,
                "zero",
                undefined=_NO_WORDS,
            ),
            Metric(
                f"weat{number}_p",
                f"WEAT {number}, p",
                "share of all partitions of the names into two halves whose difference of means is at least that one",
                _CALISKAN,
                "",
                undefined=_NO_WORDS,
            ),
        )
    ),
    Metric(
        "simlex",
        "SimLex-999",
        "Pearson's correlation of the cosines of debiased word vectors with human judgements of similarity, 999 pairs",
        "Hill, Reichart & Korhonen, 2015; Pearson's as in Ravfogel et al., 2022",
        "higher",
        undefined=_NO_WORDS,
    ),
    *STEREOTYPES,
    Metric(
        "max_abs_cov",
        "max |cov|",
        "largest |Cov(represented x, one-hot a)| on the samples fitted on, under their weights",
        _LEACE,
        "lower",
        undefined="the method names no samples that an eraser was fitted on",
    ),
    Metric(
        "feature_shift",
        "feature shift",
        "E‖Tx − x‖² / E‖x − μ‖²: 0 unchanged, 1 as far as to the mean",
        _LEACE,
        "lower",
        undefined="the method changes the number of features, or reads those of an earlier layer",
    ),
)
"""Intervals (`record.metrics_ci`) are 95 % percentile bootstrap intervals over the samples of test, or over whole
identities where there are identities, with model and probe held fixed."""

_BY_KEY = {metric.key: metric for metric in METRICS}


def objective_direction(name: str) -> Direction:
    """Return the better side of a metric that a sweeper optimises, or the value that it should be near.

    Raises:
        ValueError: no metric has this name, it has no better side, or a record holds it once for each group or label.
    """
    metric = _BY_KEY.get(name)
    if metric is None or metric.per or metric.direction == "":
        known = [m.key for m in METRICS if m.direction and not m.per]
        raise ValueError(f"objective is {name!r}, but must be one of {', '.join(known)}{suggestion(name, known)}")
    return metric.direction


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a question that names the closest of the known names, to end a message with; empty if none is close."""
    return "".join(f". Did you mean {close}?" for close in difflib.get_close_matches(name, known, 1))


def reason_undefined(key: str, *, binary_label: bool, binary_attribute: bool) -> str:
    """Return why a metric is null for data with such labels and attributes, if nothing else says so."""
    metric = _BY_KEY.get(key)
    if metric is None:
        return EMPTY_GROUP
    if metric.needs == "binary label and attribute" and not (binary_label and binary_attribute):
        return "defined for a binary label and a binary attribute"
    if metric.needs.startswith("binary attribute") and not binary_attribute:
        return "defined for a binary attribute"
    if metric.needs == "binary attribute, three labels" and binary_label:
        return "of fewer than three labels a correlation says nothing"
    return metric.undefined
