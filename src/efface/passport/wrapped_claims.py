"""What the methods of fairlearn and AIF360 claim, of which none claims anything of new samples."""

from collections.abc import Callable

from efface.passport.claim import Claim, no_guarantee
from efface.passport.facts import Facts


def _drawn(how: str) -> Callable[[Facts], Claim]:
    """Return the claim of a method whose predictions are drawn, and whose rates were made equal on some samples."""

    def claim(facts: Facts) -> Claim:
        return no_guarantee(
            "No guarantee: rates were made equal on the samples that the method was fitted on, on average over draws, "
            "and what came of it was measured. The features are as they were, so that the attribute can be read from "
            "them as before.",
            f"{how} Predictions are drawn, by the seed of the run.",
        )

    return claim


def _repaired(facts: Facts) -> Claim:
    level = facts.options["repair_level"]
    return no_guarantee(
        "No guarantee: each feature was moved by itself, and several together can tell the attribute as before.",
        f"Each feature was moved by {100 * level:g} % of the way to one distribution under all values of "
        f"{facts.attribute} (Feldman et al., 2015, arXiv 1412.3756), and a new head was fitted. The attribute of each "
        "sample has to be known when the model is used.",
    )


WRAPPED_CLAIMS: dict[str, Callable[[Facts], Claim]] = {
    "exponentiated_gradient": _drawn(
        "The head is one of several logistic regressions (Agarwal et al., 2018, arXiv 1803.02453)."
    ),
    "threshold_optimizer": _drawn(
        "The base model's score is compared with thresholds that depend on the attribute (Hardt et al., 2016, arXiv "
        "1610.02413)."
    ),
    "calibrated_eq_odds": _drawn(
        "For a share of one value of the attribute the base rate takes the place of the base model's score (Pleiss et "
        "al., 2017, arXiv 1709.02012)."
    ),
    "disparate_impact_remover": _repaired,
}
"""Of each method, by its name."""
