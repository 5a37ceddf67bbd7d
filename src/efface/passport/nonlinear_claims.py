"""What the methods against readers that are not linear claim: none has a guarantee."""

from collections.abc import Callable

from efface.passport.claim import Claim, no_guarantee
from efface.passport.facts import Facts


def _quadratic_free(facts: Facts) -> Claim:
    return no_guarantee(
        "No guarantee: the attribute of a sample is guessed, and where the guess is wrong or unsure some is left, "
        "also to a linear reader. What is left was measured.",
        f"The features were moved as if under each value of {facts.attribute}, to one mean and one covariance by "
        "optimal transport, and averaged by the probabilities of the values, those of a Gaussian mixture.",
    )


def _igbp(facts: Facts) -> Claim:
    return no_guarantee(
        "No guarantee: the method stops after a number of networks, or when a fresh one finds nothing, and no theorem "
        "says that another network would not.",
        f"Networks were trained to read {facts.attribute}, one after the other, and each was followed by a step of "
        "every sample to where it is undecided (IGBP; Iskander et al., 2023, arXiv 2305.10204).",
    )


def _obliviator(facts: Facts) -> Claim:
    return no_guarantee(
        "No guarantee: dependence is lowered as far as random features of one kernel measure it, on the samples fitted "
        "on. What is left was measured.",
        f"The dependence of the features on {facts.attribute} was lowered gradually, in a Gaussian kernel (Obliviator; "
        "Akbari et al., 2025, arXiv 2603.07529).",
    )


NONLINEAR_CLAIMS: dict[str, Callable[[Facts], Claim]] = {
    "qleace_free": _quadratic_free,
    "igbp": _igbp,
    "obliviator": _obliviator,
}
"""Of each method, by its name."""
