"""What each method claims: the one place. A method that is not in `CLAIMS` claims nothing.

A claim is made from a run's facts, because options decide what is proven: R-LACE below full rank, for one, proves
nothing. Its conditions are checked against what the run measured.
"""

from collections.abc import Callable

from efface.passport.claim import Claim, no_guarantee
from efface.passport.facts import Facts
from efface.passport.nonlinear_claims import NONLINEAR_CLAIMS
from efface.passport.schema import Condition, Guarantee
from efface.passport.wrapped_claims import WRAPPED_CLAIMS

ZERO = 1e-3
"""Largest covariance that passes for 0 in float32, as a share of the scale of the features."""
BELROSE = "Belrose et al., “LEACE: Perfect linear concept erasure in closed form”, 2023, arXiv 2306.03819"
_FITTED_ON = {
    "train": "the training samples",
    "pairs": "both members of the counterfactual pairs",
    "train+pairs": "the training samples and both members of the counterfactual pairs",
}


def claim_of(facts: Facts) -> Claim:
    """Return the claim of the method of a run."""
    name = facts.record.config["method"]["name"]
    claims = SCRUBBING_CLAIMS if facts.is_language_model else CLAIMS
    return claims.get(name, _unknown)(facts)


def _unknown(facts: Facts) -> Claim:
    return no_guarantee(
        "Nothing is known to be proven of this method: it is not in efface's table of claims.",
        f"The method “{facts.record.config['method']['name']}” was applied.",
    )


def _unchanged(facts: Facts) -> Claim:
    return no_guarantee(
        "Nothing was removed, so nothing is guaranteed. This is the model that others are compared with.",
        "Nothing: this is the base model as it was trained.",
    )


def fitted_on(facts: Facts) -> str:
    """Say which samples an eraser was fitted on."""
    n = facts.info.get("n_fit")
    size = f" ({n:,} samples)" if n is not None else ""
    return _FITTED_ON.get(facts.options["fit_on"], str(facts.options["fit_on"])) + size


def _covariance_is_zero(facts: Facts) -> Condition:
    statement = "Every edited feature has zero covariance with the attribute on those samples."
    value, scale = facts.metric("max_abs_cov"), facts.info.get("feature_scale")
    if value is None:
        return Condition(statement=f"{statement} Not measured.", holds=None)
    statement += f" The largest that was measured is {value:.1e}"
    if scale is None:
        return Condition(statement=f"{statement}; the scale of the features is not recorded.", holds=None)
    holds = value <= ZERO * scale
    verdict = "zero" if holds else "not zero"
    return Condition(
        statement=f"{statement}, of features whose standard deviation is {scale:.1e}; in 32-bit arithmetic that is "
        f"{verdict}.",
        holds=holds,
    )


def _conditions(facts: Facts, reader: str = "linear function") -> tuple[Condition, ...]:
    """Return what every eraser's guarantee rests on; it holds against a `reader`."""
    weighted = (
        "They are weighted so that label and attribute are independent, and the guarantee is for the weighted samples."
        if facts.options["reweigh"]
        else "They are not weighted."
    )
    conditions = [
        Condition(
            statement=f"It speaks of the samples that it was fitted on: {fitted_on(facts)}. {weighted}", holds=True
        ),
        _covariance_is_zero(facts),
        Condition(
            statement=f"Who reads the attribute uses a {reader} of the edited features, as logistic regression "
            "and a linear support vector machine do, and is judged by a convex loss. Accuracy is none: such a reader "
            "can be right more often than the best constant guess.",
            holds=None,
        ),
    ]
    if facts.record.info.get("dropped_columns"):
        conditions.append(
            Condition(
                statement=f"{facts.info['dropped_columns']} of {facts.info.get('d', '?')} features that vary in fewer "
                f"than {100 * facts.options['min_support']:g} % of the samples were set to a constant first.",
                holds=True,
            )
        )
    return tuple(conditions)


_LINEAR = (
    "On the samples that it was fitted on, no linear classifier of the edited features predicts {attribute} with a "
    "lower mean loss than the best constant guess, whatever convex loss is taken, such as cross-entropy."
)


def _linear(facts: Facts, removed: str, formula: str) -> Claim:
    """Return the claim of an eraser after which the means of all values of the attribute are equal."""
    if _covariance_is_zero(facts).holds is False:
        return _not_erased(facts, removed)
    guarantee = Guarantee(
        kind="linear",
        statement=_LINEAR.format(attribute=facts.attribute),
        theorem=f"Theorem 3.1 of {BELROSE}: equal class means, that is zero covariance, leave a linear predictor "
        f"nothing to gain. {formula}",
        conditions=_conditions(facts),
    )
    return Claim(removed, guarantee)


def _not_erased(facts: Facts, removed: str) -> Claim:
    return no_guarantee(f"No guarantee: its main condition is not met. {_covariance_is_zero(facts).statement}", removed)


def _rank(facts: Facts) -> str:
    rank = facts.info.get("rank")
    return "some directions" if rank is None else f"{rank} direction{'s' if rank != 1 else ''}"


def _leace(facts: Facts) -> Claim:
    is_leace = facts.options["projection"] == "leace"
    name = "LEACE, the smallest such edit in the mean square" if is_leace else "SAL, an orthogonal projection"
    formula = "The edit is that of Theorem 4.3." if is_leace else "The edit projects off the same directions."
    if is_leace and facts.options["shrinkage"]:
        formula += " Its covariance matrix is shrunk, so that the edit is nearly, and not exactly, the smallest."
    return _linear(
        facts,
        f"What a linear reader could tell of {facts.attribute} was taken out of the features, in {_rank(facts)}, by "
        f"{name}.",
        formula,
    )


def _splince(facts: Facts) -> Claim:
    return _linear(
        facts,
        f"What a linear reader could tell of {facts.attribute} was taken out of the features, in {_rank(facts)}, by "
        "SPLINCE, an edit that leaves the covariance of the features with the label as it was (but for features that "
        "were set to a constant).",
        "The edit is that of Holstege et al., 2025, arXiv 2506.10703.",
    )


def _oracle(facts: Facts) -> Claim:
    return _linear(
        facts,
        f"The features were replaced by what is left of them after a regression on {facts.attribute} (oracle LEACE). "
        "The attribute of each sample has to be known when the model is used.",
        "A residual has zero covariance with what it is a residual of.",
    )


def _quadratic(facts: Facts) -> Claim:
    shrunk = facts.options["shrinkage"]
    removed = (
        f"The features under each value of {facts.attribute} were moved to one mean and one covariance, by optimal "
        "transport. The attribute of each sample has to be known when the model is used."
    )
    if shrunk:
        formula = "Covariances are estimated with shrinkage, so that after the edit they are close, and not equal."
        return _linear(facts, removed, formula)
    if _covariance_is_zero(facts).holds is False:
        return _not_erased(facts, removed)
    full_rank = Condition(
        statement="The features vary in all directions under each value of the attribute, for which it needs more "
        "samples than there are features. Otherwise covariances cannot be made equal, and only the part on linear "
        "classifiers holds.",
        holds=None,
    )
    guarantee = Guarantee(
        kind="quadratic",
        statement=_LINEAR.format(attribute=facts.attribute) + " The same holds for classifiers of degree two.",
        theorem=f"Theorem 3.1 of {BELROSE}, for the features and their products: all of them have equal class means.",
        conditions=(*_conditions(facts, "function of degree one or two"), full_rank),
    )
    return Claim(removed, guarantee)


def _full_rank(facts: Facts) -> bool:
    k, rank = facts.attribute_values, facts.options["rank"]
    return rank is None or (k is not None and rank >= k - 1)


def _mean_projection(facts: Facts) -> Claim:
    removed = f"The features were projected off {_rank(facts)} between the means of the values of {facts.attribute}."
    if _full_rank(facts):
        return _linear(facts, removed, "The projection removes the span of all differences of class means.")
    return no_guarantee(
        "No guarantee: fewer directions were removed than the attribute's means span, so that a linear reader can "
        "still gain from the others.",
        removed,
    )


def _rlace(facts: Facts) -> Claim:
    removed = (
        f"The features were projected off the {_rank(facts)} after which the best linear reader of {facts.attribute} "
        "does worst (R-LACE; Ravfogel et al., 2022, arXiv 2201.12091)."
    )
    solution = facts.info.get("solution") or {}
    if _full_rank(facts) and "cross-entropy" in solution.get("optimal_for", ()):
        return _linear(facts, removed, "At this rank the optimum is known: the projection off the covariance's span.")
    bound = solution.get("suboptimality_bound")
    known = "" if bound is None else f" No projection of this rank takes more than another {bound:.3f} nats from it."
    return no_guarantee(
        "No guarantee: this projection is the end of a search, or takes fewer directions than the attribute fills, and "
        f"some information is left to a linear reader.{known}",
        removed,
    )


def _inlp(facts: Facts) -> Claim:
    return no_guarantee(
        "No guarantee: the method stops after a number of classifiers, and no theorem says that the next one would "
        "find nothing.",
        f"The directions that successive linear classifiers of {facts.attribute} use were projected out, "
        f"{_rank(facts)} in all (INLP; Ravfogel et al., 2020, arXiv 2004.07667).",
    )


def _pca(facts: Facts) -> Claim:
    return no_guarantee(
        "No guarantee: the directions of largest variance need not be those that tell the attribute.",
        f"The features were projected off {_rank(facts)}, the leading principal ones of differences between samples "
        "with different attributes (Bolukbasi et al., 2016, arXiv 1607.06520).",
    )


def _random(facts: Facts) -> Claim:
    return no_guarantee(
        "No guarantee: this is a control. It removes directions without a look at the attribute.",
        f"The features were projected off {_rank(facts)}, drawn at random.",
    )


def _unaware(facts: Facts) -> Claim:
    n = facts.info.get("dropped_columns")
    guarantee = Guarantee(
        kind="by construction",
        statement="A change of the attribute's own columns, and of nothing else, changes no prediction.",
        theorem="By construction: the model does not see these columns.",
        conditions=(
            Condition(
                statement="The columns that were named are the attribute's own. Others may stand in for it.", holds=None
            ),
        ),
    )
    return Claim(f"The {n} columns of {facts.attribute} were set to a constant, and a new head was fitted.", guarantee)


def _objective(how: str) -> Callable[[Facts], Claim]:
    """Return the claim of a method that trains the head, or the last layers, under another objective."""

    def claim(facts: Facts) -> Claim:
        statement = "No guarantee: the training objective was changed, and what came of it was measured."
        if facts.options.get("layers", 1) == 1:
            statement += " The features are as they were, so that the attribute can be read from them as before."
        unchanged = facts.info.get("unchanged")
        nothing = " No candidate was better on validation data, so that the model is as it was." if unchanged else ""
        return no_guarantee(statement, how + nothing)

    return claim


def _certified(facts: Facts) -> Claim:
    info = facts.info
    removed = (
        f"{info['removed']:,} training samples were removed from a linear classifier, chosen by label, attribute and "
        f"chance, so that {facts.attribute} and the label go together less."
        if info["removed"]
        else "No training sample has been removed from this linear classifier, which is able to forget some."
    )
    if not info["certified"]:
        return no_guarantee(f"No guarantee: the certificate is not valid, because {info['certified_reason']}.", removed)
    conditions = (
        Condition(statement="The features are computed from each sample alone.", holds=True),
        Condition(statement="The noise was drawn from the system's entropy, and nobody knows it.", holds=True),
        Condition(
            statement="Requests for removal were made without a look at the model or an earlier release.", holds=None
        ),
        Condition(statement="Rounding in 64-bit arithmetic is not accounted for.", holds=None),
    )
    guarantee = Guarantee(
        kind="certified removal",
        statement="For each sample that was removed, this model can hardly be told from one that was never trained on "
        f"it: no event is more than e^{info['epsilon']:g} times as likely under one of them as under the other, but "
        f"for a probability of {info['delta']:g}. This is about single samples. It says nothing on bias.",
        theorem="Certified removal as Guo et al., 2020, arXiv 1911.03030, define it. Strong convexity bounds the "
        "distance between the two models; Theorem 8 of Balle & Wang, 2018, arXiv 1805.06530, gives the noise "
        "that hides it.",
        conditions=conditions,
    )
    return Claim(removed, guarantee)


def _scrubbed(facts: Facts) -> Claim:
    """Return the claim of erasers behind the layers of a language model."""
    n, value = facts.info.get("n_fit"), facts.metric("max_abs_cov")
    sites = [layer for layer in facts.info["layers"] if layer.get("rank")]
    removed = (
        f"What a linear reader could tell of {facts.attribute} ({facts.attribute_values} tags) was taken out of the "
        f"states at {len(sites)} places of the language model, each eraser fitted with those below it at work."
    )
    guarantee = Guarantee(
        kind="linear",
        statement="On the training tokens, at each place where an eraser is, no linear classifier of the state "
        f"predicts {facts.attribute} with a lower mean loss than the best constant guess, whatever convex loss is "
        "taken.",
        theorem=f"Theorem 3.1 of {BELROSE}, at every place by itself; concept scrubbing is section 6 there.",
        conditions=(
            Condition(statement=f"It speaks of the labelled training tokens ({n:,}).", holds=True),
            Condition(
                statement="Every number of the state has zero covariance with each tag on them. The largest that was "
                f"measured is {'unknown' if value is None else f'{value:.1e}'}.",
                holds=True if value is not None and value <= ZERO else None,
            ),
            Condition(statement="The reader sees one state at a time, and is linear.", holds=None),
        ),
    )
    return Claim(removed, guarantee)


def _scrubbed_at_random(facts: Facts) -> Claim:
    return no_guarantee(
        "No guarantee: this is a control. It removes directions without a look at the tags.",
        "Random directions were removed from the states of the language model.",
    )


_FMD = "Chen et al., “Fast Model Debias”, 2023, arXiv 2310.12560"
_fmd_samples = _objective(f"The head was trained again without the training samples that raise the bias most ({_FMD}).")
_fmd_replaced = _objective(
    "The head was trained again with the training samples that raise the bias most replaced by their counterfactuals "
    f"({_FMD})."
)
CLAIMS: dict[str, Callable[[Facts], Claim]] = {
    "none": _unchanged,
    "leace": _leace,
    "leace_orth": _leace,
    "splince": _splince,
    "oracle_leace": _oracle,
    "qleace": _quadratic,
    "rlace": _rlace,
    "inlp": _inlp,
    "mean_projection": _mean_projection,
    "pca": _pca,
    "random_projection": _random,
    "unaware": _unaware,
    "converge": _objective("The head was trained further on the training data. Nothing aims at the attribute."),
    "fmd": _objective(f"The head was trained again with the counterfactual pairs in its objective ({_FMD})."),
    "fmd_unlearn": _fmd_samples,
    "fmd_replace": _fmd_replaced,
    "retrain": _fmd_replaced,
    "fmd_top": _objective(
        f"The last linear layers were trained again with the counterfactual pairs in their objective ({_FMD})."
    ),
    "fmd_published": _objective(f"One Newton step was taken on the head, as published ({_FMD})."),
    "dfr": _objective("A new head was fitted on the counterfactual pairs (Kirichenko et al., 2023, arXiv 2204.02937)."),
    "dfr_published": _objective(
        "A new head was fitted as the mean of logistic regressions on group-balanced subsets of the pairs (Kirichenko "
        "et al., 2023, arXiv 2204.02937)."
    ),
    "certified": _certified,
    "certified_full": _certified,
    "certified_published": _certified,
    **NONLINEAR_CLAIMS,
    **WRAPPED_CLAIMS,
}
"""Of each method of the grid, by its name."""
SCRUBBING_CLAIMS: dict[str, Callable[[Facts], Claim]] = {
    "none": _unchanged,
    "leace": _scrubbed,
    "orth": _scrubbed,
    "random": _scrubbed_at_random,
}
"""Of each method that scrubs a language model."""
