"""Every metric of a run as a figure: with its split, number of samples and interval, and the base model's beside it."""

from collections.abc import Mapping
from typing import Any

from efface.metrics import METRICS, reason_undefined
from efface.metrics.metric import Metric
from efface.passport.facts import Facts
from efface.passport.schema import Figure

_WORDS = {
    "acc.": "accuracy",
    "adj.": "adjusted",
    "group-adj.": "group-adjusted",
    "avg.": "average",
    "bal.": "balanced",
    "corr.": "correlation",
    "counterf.": "counterfactual",
    "diff.": "difference",
    "dist.": "distance",
    "info.": "information",
    "opp.": "opportunity",
    "stat.": "statistical",
    "max": "largest",
    "|cov|": "covariance",
    "majority": "probe, constant guess",
    "MLP": "non-linear",
}
"""Words of headings as a reader outside the field wants them."""


def figures(facts: Facts) -> tuple[Figure, ...]:
    """Return the metrics of the record on test, in the order of `METRICS`."""
    return tuple(_figure(metric, facts) for metric in METRICS if metric.key in facts.record.metrics)


def _figure(metric: Metric, facts: Facts) -> Figure:
    key = metric.key
    base = facts.base.metrics.get(key) if facts.base is not None else None
    value = facts.metric(key)
    split, n = _measured_on(key, facts)
    parts = _parts(facts.record.metrics[key])
    reason = None
    if value is None and not any(part is not None for part in parts.values()):
        reason = facts.info.get("reasons", {}).get(key) or _why_undefined(metric, facts)
    return Figure(
        key=key,
        heading=_in_full(metric.heading),
        meaning=metric.formula,
        better=metric.direction,
        split=split,
        n=n,
        value=value,
        interval=facts.interval(key),
        parts=parts,
        reason=reason,
        base=facts.metric(key, base=True),
        base_interval=facts.interval(key, base=True),
        base_parts=_parts(base),
    )


def _measured_on(key: str, facts: Facts) -> tuple[str, int | None]:
    """Return the split that a metric is measured on, and its samples; None where the record does not tell."""
    if key == "max_abs_cov":
        return "fitted on", facts.info.get("n_fit")
    name, is_probe, _ = key.partition("probe_")
    if not is_probe or facts.is_language_model:
        return "test", facts.n_test
    return "half of test", facts.info.get("n_probed", {}).get(f"{name}probe")


def _why_undefined(metric: Metric, facts: Facts) -> str:
    labels = {y for y, _ in facts.test_groups}
    return reason_undefined(metric.key, binary_label=len(labels) == 2, binary_attribute=facts.attribute_values == 2)


def _in_full(heading: str) -> str:
    """Return a table's heading without its abbreviations."""
    return " ".join(
        _WORDS.get(word.rstrip(","), word.rstrip(",")) + "," * word.endswith(",") for word in heading.split()
    )


def _parts(value: Any) -> dict[str, float | None]:
    return dict(value) if isinstance(value, Mapping) else {}
