"""What does not follow from a guarantee, with the numbers that a run measured."""

import math
from collections.abc import Iterator

from efface.passport.facts import Facts
from efface.passport.schema import Guarantee


def limits(facts: Facts, guarantee: Guarantee) -> tuple[str, ...]:
    """Return sentences, the most important first."""
    sentences = [*_language_model(facts)] if facts.is_language_model else [*_classifier(facts, guarantee)]
    sentences.append(
        "One seed: intervals tell what other test samples would change, and not what another seed would; the table of "
        "several runs tells that."
    )
    return tuple(sentences)


def _classifier(facts: Facts, guarantee: Guarantee) -> Iterator[str]:
    yield _non_linear(facts)
    yield _linear_held_out(facts)
    if guarantee.kind in ("linear", "quadratic"):
        yield from _fresh_sample(facts)
        yield (
            "The guarantee is for the features that enter the classifier. Raw inputs and earlier layers hold the "
            "attribute as before."
        )
    yield from _other_distribution(facts)
    yield _predictions(facts)
    if facts.record.config["training"]["name"] == "none":
        yield (
            "The model came trained. Whether some of these test samples were among those that it was trained on is not "
            "known here; if they were, the figures are better than they would be for new samples."
        )
    yield (
        "Nothing is said of other attributes, of combinations of attributes, or of samples unlike those in the data: "
        "the figures are for these test samples."
    )
    if facts.info.get("uses_attribute_at_test"):
        yield (
            "The model is told the attribute of whoever it is applied to. A wrong value there undoes the edit, and the "
            "edited features can hold more of it that is not linear than the ones before."
        )


def _language_model(facts: Facts) -> Iterator[str]:
    yield _linear_held_out(facts)
    yield "What readers can tell that are not linear, or that see several states together, was not measured."
    yield "Tokens other than the training tokens are not covered by a guarantee. The figure above is for test tokens."
    yield "Nothing is said of what the model writes."


def percent(share: float) -> str:
    """Return a share of 1 in per cent."""
    return f"{100 * share:.1f} %"


def _of_entropy(facts: Facts) -> str:
    entropy = facts.attribute_entropy
    return "" if entropy is None else f" of {entropy:.2f}"


def _before(facts: Facts, key: str) -> str:
    base = facts.metric(key, base=True)
    if facts.record.config["method"]["name"] == "none":
        return ""
    return "; of the base model it is not known" if base is None else f"; from the base model’s features {base:.3f}"


def _why_unknown(facts: Facts, key: str) -> str:
    return str(facts.info.get("reasons", {}).get(key, "this run does not measure it"))


def _non_linear(facts: Facts) -> str:
    key = "mlp_probe_information"
    value = facts.metric(key)
    if value is None:
        return f"What a reader that is not linear can tell is not known: {_why_unknown(facts, key)}."
    linear = facts.metric("probe_information")
    if linear is not None and value < linear:
        return (
            f"A reader that is not linear is not ruled out, and can tell what a linear one can, {linear:.3f} bits, and "
            f"perhaps more. The network with one hidden layer that was tried did worse, with {value:.3f}."
        )
    return (
        f"A reader that is not linear is not ruled out: a network with one hidden layer reads {value:.3f}"
        f"{_of_entropy(facts)} bits of {facts.attribute} from the features of test samples{_before(facts, key)}. A "
        "better network may read more."
    )


def _linear_held_out(facts: Facts) -> str:
    key = "probe_information"
    value, interval = facts.metric(key), facts.interval(key)
    if value is None:
        return f"What a linear reader can tell of new samples is not known: {_why_unknown(facts, key)}."
    bounds = "" if interval is None else f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
    accuracy, majority = facts.metric("probe_accuracy"), facts.metric("probe_majority")
    right = (
        ""
        if accuracy is None or majority is None
        else f" It is right in {percent(accuracy)} of the cases; the best constant guess is in {percent(majority)}."
    )
    what = "test tokens" if facts.is_language_model else "test samples"
    return (
        f"On {what}, which no method has seen, a linear reader gains {value:.3f}{_of_entropy(facts)} bits{bounds}"
        f"{_before(facts, key)}.{right}"
    )


def _fresh_sample(facts: Facts) -> Iterator[str]:
    """Say what sampling error leaves in the population; see `excess_bits`."""
    n, d, k = facts.info.get("n_eff"), facts.info.get("d"), facts.attribute_values
    if not n or not d or not k:
        return
    d -= facts.info.get("dropped_columns", 0)
    if n <= d * k:
        yield (
            f"The guarantee is exact for the samples fitted on, and not for others. These are {n:,.0f} (weights taken "
            f"into account), too few for {d:,} features to say what sampling error leaves: of new samples a linear "
            "reader who has unlimited data may tell much of the attribute, or all of it. Go by the figure for test "
            "samples above; several times as many samples as features would help."
        )
        return
    bits = min(excess_bits(d, n, k), math.log2(k))
    yield (
        f"The guarantee is exact for the samples fitted on, and not for others. With {d:,} features and {n:,.0f} "
        f"samples (weights taken into account), sampling error alone leaves about {bits:.2g} bits, or less where "
        "features are redundant, to a linear reader who has unlimited data. Twice as many samples would halve it."
    )


def excess_bits(d: int, n: float, k: int) -> float:
    """Return the bits that an eraser fitted on n samples leaves in the population, on average: (k − 1) d / (2 n ln 2).

    Class means of the population differ by the sampling error of the fit. In units of the covariance their squared
    distance is 4 d / n for two equally frequent values, of which a linear reader gains an eighth in nats. To first
    order, so for n well above d k.

    Args:
        d: features.
        n: samples, the effective number where they are weighted.
        k: values of the attribute.
    """
    return (k - 1) * d / (2 * n * math.log(2))


def _other_distribution(facts: Facts) -> Iterator[str]:
    key = "balanced_probe_information"
    value = facts.metric(key)
    if value is not None:
        yield (
            f"Where all groups of label and attribute are made equally frequent, a linear reader gains {value:.3f} bits"
            f"{_before(facts, key)}: the guarantee, if there is one, is for the distribution fitted on."
        )


def _beside(facts: Facts, key: str) -> str:
    """Return the base model's value of a metric, in brackets; nothing where it is not known."""
    base = facts.metric(key, base=True)
    return "" if base is None or facts.record.config["method"]["name"] == "none" else f" (base model: {base:.3f})"


def _predictions(facts: Facts) -> str:
    """Say what is known of predictions, of which no claim of any method speaks."""
    parts = []
    for key, text in (
        (
            "counterfactual_bias",
            "changing the attribute of a sample changes the probability of its label by {:.3f} on average",
        ),
        ("worst_group_accuracy", "the worst group of label and attribute has an accuracy of {:.3f}"),
        ("average_odds_difference", "the error rates of the two values differ by {:.3f} on average"),
    ):
        value = facts.metric(key)
        if value is not None:
            parts.append(text.format(value) + _beside(facts, key))
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    known = f" On test, {listed}." if parts else ""
    return f"Equal treatment by the model’s predictions is not guaranteed.{known}"
