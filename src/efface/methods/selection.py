"""Choose among candidates on val, and say in the record what was chosen from what."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from efface.data.groups import Rule, val_score
from efface.problem import Problem


class Candidate(Protocol):
    """A model that was fitted with one setting of the hyper-parameters."""

    searched: ClassVar[tuple[str, ...]]
    """Names of the facts that a grid was laid over."""

    @property
    def score(self) -> float:
        """How good it is on val; higher is better."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return its hyper-parameters, and how its fit went, for the record."""
        ...


C = TypeVar("C", bound=Candidate)


def score_on_val(logits: Tensor, problem: Problem, rule: Rule) -> float:
    """Score logits `[n, K]` of the val samples of a problem, see `val_score`."""
    val = problem.val
    return val_score(logits, val.y, val.a, problem.n_classes, problem.n_attributes, rule)


def best_on_val(candidates: Iterable[C], rule: Rule) -> tuple[C, dict[str, Any]]:
    """Choose the candidate with the highest score, the first of equals.

    Returns:
        The candidate, and facts for the record: the rule, the chosen setting, all that were tried, and whether the
        chosen one is `at_edge`, so that a wider grid might hold a better one.
    """
    tried = list(candidates)
    best = max(tried, key=lambda candidate: candidate.score)
    facts = {
        "selection": rule,
        "chosen": described(best, rule),
        "at_edge": at_edge(best, tried),
        "tried": [described(one, rule) for one in tried],
    }
    return best, facts


def at_edge(best: Candidate, tried: Sequence[Candidate]) -> bool:
    """Tell whether the best candidate has the least or the largest value of a hyper-parameter of which several were
    tried. A grid of two values has nothing but edges.
    """
    for name in best.searched:
        values = {candidate.facts()[name] for candidate in tried}
        if len(values) > 1 and best.facts()[name] in (min(values), max(values)):
            return True
    return False


def described(candidate: Candidate, rule: Rule) -> dict[str, Any]:
    """Return the facts of a candidate with its score, as the record has them."""
    return {**candidate.facts(), f"val_{rule}": candidate.score}
