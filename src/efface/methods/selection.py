"""Choose among candidates on val, and say in the record what was chosen from what.

Two rules. `best_on_val` takes the highest score. `closest_on_val` is for candidates that are ever further from a model
as it was trained, which is one of them: of those that are not told from the best, it takes the closest, by the
largest λ in units of its curvature.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from efface.data.groups import Rule, groups, val_score
from efface.problem import Problem

_RESAMPLES = 200


class Candidate(Protocol):
    """A model that was fitted with one setting of the hyper-parameters."""

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the facts that a grid was laid over."""
        ...

    @property
    def logits(self) -> Tensor:
        """Its logits `[n, K]` of the val samples."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return its hyper-parameters, and how its fit went, for the record."""
        ...


class Moved(Candidate, Protocol):
    """A candidate that is some way from the model as it was trained."""

    @property
    def closeness(self) -> float:
        """The larger, the closer; infinite for the model itself."""
        ...


C = TypeVar("C", bound=Candidate)
M = TypeVar("M", bound=Moved)


@dataclass(frozen=True)
class Judge:
    """Scores models on the val samples of a problem."""

    problem: Problem
    asked: Rule
    """The rule that was asked for, see `val_score`."""

    @property
    def blind(self) -> bool:
        """Whether val has one value of the attribute, so that no rule on groups can see what depends on it."""
        return self.asked != "accuracy" and len(self.problem.val.a.unique()) < 2

    @property
    def rule(self) -> Rule:
        """The rule that is followed: `accuracy` where val has one value of the attribute."""
        return "accuracy" if self.blind else self.asked

    def score(self, logits: Tensor) -> float:
        """Score logits `[n, K]` of the val samples; higher is better."""
        val, problem = self.problem.val, self.problem
        return val_score(logits, val.y, val.a, problem.n_classes, problem.n_attributes, self.rule)

    def errors(self, logits: Sequence[Tensor], best: int, *, within_groups: bool) -> Tensor:
        """Estimate the standard error of how far each score is below that of the best, `[len(logits)]`.

        By the bootstrap, all scores on the same resamples of val. People are drawn whole, wherever their photographs
        are. Other samples are drawn from all of val, or `within_groups` of label and attribute. To the latter error a
        group of one sample adds nothing: it is far too small where most groups of conflicting samples are of that size.

        Cost: 400 operations for each candidate and sample.
        """
        val = self.problem.val
        values = torch.stack([self._values(one) for one in logits], 1)
        group = groups(val.y, val.a, self.problem.n_attributes)
        strata = group if within_groups else torch.zeros_like(group)
        times = _resamples(strata, val.cluster, self.problem.seed).to(values)
        members = [(group == g).nonzero()[:, 0] for g in group.unique()]
        sizes = torch.stack([times[:, rows].sum(1) for rows in members])
        sums = torch.stack([times[:, rows] @ values[rows] for rows in members])
        if self.rule == "accuracy":
            scores = sums.sum(0) / sizes.sum(0)[:, None]
        else:
            means = sums / sizes[:, :, None]  # of a group that no one was drawn from: NaN
            worst = self.rule == "worst_group_accuracy"
            scores = means.nan_to_num(nan=torch.inf).amin(0) if worst else means.nanmean(0)
        return (scores[:, [best]] - scores).std(0)

    def _values(self, logits: Tensor) -> Tensor:
        """Return what scores are means of, `[n]` float64: whether each sample is right, or minus its loss."""
        if self.rule == "balanced_loss":
            return -functional.cross_entropy(logits.double(), self.problem.val.y, reduction="none")
        return (logits.argmax(1) == self.problem.val.y).double()

    def described(self, candidate: Candidate, score: float) -> dict[str, Any]:
        """Return the facts of a candidate with its score, as the record has them."""
        return {**candidate.facts(), f"val_{self.rule}": score}

    def facts(self, chosen: int, tried: Sequence[Candidate], scores: Sequence[float]) -> dict[str, Any]:
        """Return for the record: the rule, the chosen setting, all that were tried, and whether the chosen one is
        `at_edge`, so that a wider grid might hold a better one.
        """
        facts: dict[str, Any] = {"selection": self.rule}
        if self.blind:
            facts["selection_reason"] = f"val has one value of the attribute, so that {self.asked} cannot see the bias"
        rows = [self.described(one, score) for one, score in zip(tried, scores, strict=True)]
        return facts | {"chosen": rows[chosen], "at_edge": at_edge(tried[chosen], tried), "tried": rows}


def best_on_val(candidates: Iterable[C], problem: Problem, rule: Rule) -> tuple[C, dict[str, Any]]:
    """Choose the candidate with the highest score, the first of equals.

    Returns:
        The candidate, and facts for the record, see `Judge.facts`.
    """
    judge, tried = Judge(problem, rule), list(candidates)
    scores = [judge.score(one.logits) for one in tried]
    best = scores.index(max(scores))
    return tried[best], judge.facts(best, tried, scores)


def closest_on_val(candidates: Iterable[M], problem: Problem, rule: Rule) -> tuple[M, dict[str, Any]]:
    """Choose the candidate closest to the model as it was trained among those within one standard error of the best.

    The one-standard-error rule of Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3, with the
    error of the difference of two scores, see `Judge.errors`. Where nothing beats the model as it was trained by more
    than one standard error, over all of val, it is the answer. What scores below it is not chosen. How far to go from
    it is decided by the error within groups. Of equally close ones the best is taken.

    Both errors are choices by pairs that were held out, on Colored MNIST with bias 0.995, 0.99 and 0.95, two seeds
    each. By the error over all of val alone, `FmdPairs` stopped short in one of six: their mean unbiased accuracy was
    0.869 instead of 0.883. By the error within groups alone, `Converge` fell below the model as it was trained on 18 of
    180 halves of val, drawn with overlap, instead of on 9. The price: on one of 180, `FmdPairs` stayed at the model as
    it was trained, where it would have gained.

    Args:
        candidates: the first is the model as it was trained.
        problem: its val samples score them.
        rule: see `val_score`.

    Returns:
        The candidate, and facts for the record: those of `Judge.facts`; `best`, the best setting, and its `gain` over
        the model as it was trained with the standard error of that over all of val; and whether the answer is that
        model, `unchanged`.
    """
    judge, tried = Judge(problem, rule), list(candidates)
    scores = [judge.score(one.logits) for one in tried]
    best = scores.index(max(scores))
    gain = scores[best] - scores[0]
    error = float(judge.errors([tried[0].logits, tried[best].logits], 1, within_groups=False)[0])
    chosen = _closest(tried, scores, judge) if gain > error else 0
    facts = judge.facts(chosen, tried, scores)
    facts |= {"best": facts["tried"][best], "gain": gain, "gain_error": error, "unchanged": chosen == 0}
    return tried[chosen], facts


def _closest(tried: Sequence[Moved], scores: Sequence[float], judge: Judge) -> int:
    """Return which candidate but the first is the closest within one standard error, within groups, of the best."""
    best = scores.index(max(scores))
    errors = judge.errors([one.logits for one in tried], best, within_groups=True).tolist()
    eligible = [i for i, s in enumerate(scores) if i and s >= scores[0] and scores[best] - s <= errors[i]]
    return max(eligible, key=lambda i: (tried[i].closeness, scores[i]))


def at_edge(best: Candidate, tried: Sequence[Candidate]) -> bool:
    """Tell whether the best candidate has the least or the largest value of a hyper-parameter of which several were
    tried. A grid of two values has nothing but edges; a candidate without the hyper-parameter is at none.
    """
    for name in best.searched:
        values = {one.facts()[name] for one in tried if one.facts().get(name) is not None}
        if len(values) > 1 and best.facts().get(name) in (min(values), max(values)):
            return True
    return False


def _resamples(strata: Tensor, cluster: Tensor | None, seed: int) -> Tensor:
    """Draw samples with replacement within their strata `[n]`, or clusters whole: how often each, `[draws, n]`.

    A single cluster has no other to be drawn instead: its samples are.
    """
    strata = strata.cpu()
    if cluster is None or len(cluster.unique()) == 1:
        unit, stratum = torch.arange(len(strata)), strata
    else:
        names, unit = cluster.cpu().unique(return_inverse=True)
        stratum = torch.zeros_like(names)
    times = torch.zeros(_RESAMPLES, len(stratum), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for value in stratum.unique():
        members = (stratum == value).nonzero()[:, 0]
        drawn = members[torch.randint(len(members), (_RESAMPLES, len(members)), generator=generator)]
        times.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand_as(drawn))
    return times[:, unit]
