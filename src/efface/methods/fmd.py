"""Fast Model Debias as a method of the grid (Chen et al., 2023): find a bias, the samples behind it, and unlearn it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from efface.data.groups import aligned
from efface.debiased import Debiased
from efface.methods.matching import MATCHINGS, Matching, rematched, why_not
from efface.methods.selection import Select, check_select, score
from efface.problem import Features, Problem
from efface.representations import Rectified, Representation
from efface.unlearning.bias import Bias, CounterfactualBias, DemographicParity, EqualOpportunity, biased
from efface.unlearning.bias import counterfactual_bias as bias_of_pairs
from efface.unlearning.edits import (
    STRATEGIES,
    Strategy,
    check_labels,
    check_pairs,
    external,
    published_step,
    replaced,
    without,
)
from efface.unlearning.head import Head, head_of, head_parameters
from efface.unlearning.influence import Influence
from efface.unlearning.inverse import SOLVERS, InverseSolver
from efface.unlearning.layers import Layers
from efface.unlearning.objective import Minimum, Trainable, TrainingObjective

SHOWN = 24
"""Most harmful and most helpful samples that are kept, with their images."""
_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the samples that may go, those tried where no number is given."""


@dataclass(frozen=True, kw_only=True)
class Fmd:
    """Edits the training objective and follows its minimum.

    Args:
        strategy: `external` adds the counterfactual members of the pairs to the objective, `unlearn` leaves the most
            harmful training samples out, `replace` puts their counterfactuals in their place.
        number: of pairs (drawn at random; all if None), or of training samples, the most harmful first (None: the best
            on val of a quarter, a half, … of those that `unlearn` may leave out, or `replace` finds harmful).
        matching: of pairs that are two samples: as `given` by the data set, or the `nearest` in the features.
        steps: 1 is the published Newton step, in full, from the model as it was trained. More are damped steps with
            backtracking on a convex objective, up to so many, after the layers have been converged on train.
        alpha: candidates for the weight of the pairs in `external`, the best on val is taken; not used by the published
            step. None: those at which α / (1 − α) is half, once and twice A − 1, for A values of the attribute: at once
            A − 1, counterfactuals drawn uniformly balance training samples that are all bias-aligned.
        damping: candidates for λ, in units of the mean square of a feature; the best on val is taken.
        select: the rule on val, see `efface.methods.selection.score`.
        search: candidates of `external` are tried on about so many training samples, evenly spaced, and the best is
            fitted on all.
        layers: 1 for the head, m > 1 for the last m linear layers together.
        bias: the functional whose influence ranks the training samples.
        signed: the counterfactual bias without the absolute value.
        delta: a pair is called biased where its |bias| exceeds this.
        solver: of the inverse Hessian.
        from_scratch: start at zero instead of at the trained head.
    """

    strategy: Strategy = "external"
    number: int | None = None
    matching: Matching = "given"
    steps: int = 100
    alpha: Sequence[float] | None = None
    damping: Sequence[float] = (1e-5, 1e-4)
    select: Select = "unbiased_accuracy"
    search: int = 10_000
    layers: int = 1
    bias: Literal["counterfactual", "demographic_parity", "equal_opportunity"] = "counterfactual"
    signed: bool = False
    delta: float = 0.1
    solver: InverseSolver = "auto"
    from_scratch: bool = False

    uses_attribute_at_test: ClassVar[bool] = False
    small: ClassVar[dict[str, Any]] = {"steps": 4, "alpha": [0.8]}

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}, but must be one of {', '.join(STRATEGIES)}")
        if self.number is not None and self.number < 1:
            raise ValueError(f"number is {self.number}, but must be at least 1, or null")
        if self.matching not in MATCHINGS:
            raise ValueError(f"matching is {self.matching!r}, but must be one of {', '.join(MATCHINGS)}")
        if self.steps < 1 or self.layers < 1 or self.search < 1:
            raise ValueError(f"steps is {self.steps}, layers {self.layers}, search {self.search}: all must be positive")
        if self.alpha is not None and (len(self.alpha) == 0 or not all(0 < alpha <= 1 for alpha in self.alpha)):
            raise ValueError(f"alpha is {list(self.alpha)}, but must hold one or more weights in (0, 1], or be null")
        if len(self.damping) == 0 or not all(damping > 0 for damping in self.damping):
            raise ValueError(f"damping is {list(self.damping)}, but must hold one or more positive numbers")
        if self.bias not in ("counterfactual", "demographic_parity", "equal_opportunity"):
            raise ValueError(
                f"bias is {self.bias!r}, but must be 'counterfactual', 'demographic_parity' or 'equal_opportunity'"
            )
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}, but must be one of {', '.join(SOLVERS)}")
        if self.from_scratch and (self.steps == 1 or self.layers > 1):
            raise ValueError("from_scratch needs steps > 1 and layers 1: it goes to the minimum of a convex objective")
        check_select(self.select)

    def skip(self, problem: Problem) -> str | None:
        if len(problem.pairs) == 0:
            return "the data set has no counterfactual pairs"
        if len(problem.pairs.a.unique()) < 2 and len(problem.pairs_cf.a.unique()) < 2:
            return "the attribute has one value only among the pairs"
        unmatched = why_not(problem, self.matching)
        if unmatched is not None:
            return unmatched
        absent = torch.bincount(problem.train.y, minlength=problem.n_classes) == 0
        if absent.any():
            return f"no training sample of classes {absent.nonzero()[:, 0].tolist()}"
        if self.strategy == "replace" and not problem.flippable:
            return "strategy=replace: no counterfactual of a training sample exists in these data"
        available = len(problem.pairs) if self.strategy == "external" else len(problem.train) - 1
        if self.number is not None and self.number > available:
            return f"number={self.number}: there are {available} that can be taken"
        if self.layers > 1:
            try:
                problem.cut(self.layers)
            except ValueError as error:
                return f"layers={self.layers}: {error}"
        return None

    def fit(self, problem: Problem) -> Debiased:
        problem = rematched(problem, self.matching)
        check_pairs(problem.pairs.y, problem.pairs_cf.y)
        check_labels(problem.train.y, problem.n_classes)
        head_parameters(problem.head)  # first: it says if there is no linear head
        base, stack = problem, None
        if self.layers > 1:
            problem, stack = problem.cut(self.layers)
        trainable: Trainable = _layers(stack) if stack is not None else _head(problem)
        theta0 = _layers(stack).parameters() if stack is not None else head_parameters(problem.head)
        thinned = self._thinned(problem)
        tried = [] if thinned is None else self._outcomes(thinned, trainable, theta0)
        if tried:
            near = max(tried, key=lambda outcome: outcome.score)
            settled = replace(self, alpha=(near.told["alpha"],), damping=(near.told["damping"],))
            outcomes = settled._outcomes(problem, trainable, near.start.theta, near.found.theta)
        else:
            outcomes = self._outcomes(problem, trainable, theta0)
        best = max(outcomes, key=lambda outcome: outcome.score)  # the first of equals
        found, start = best.found, best.start
        influence = best.influence or self._influence(problem, trainable, best.law, start)
        represent, head = _debiased_layers(found.theta, stack, problem)
        info: dict[str, Any] = {
            "strategy": self.strategy, "steps": found.iterations, "converged": found.converged,
            "grad_norm": found.grad_norm, "base_converged": start.converged,
            "selection": self.select, "chosen": best.told,
            "tried": [outcome.told for outcome in (tried or outcomes)],
            "tried_on": len((thinned or problem).train),
            "identified": self._identified(problem, trainable, start.theta),
            "influence": influence.summary(
                aligned(base.train.y, base.train.a, base.n_classes, base.n_attributes)[base.train.y, base.train.a],
                top=min(1000, len(base.train) // 10),
            ),
            **certification(self.strategy),
        }  # fmt: skip
        ranking = influence.ranking()
        arrays = {
            "influence": influence.values.float(),
            "harmful_rows": ranking[:SHOWN],
            "helpful_rows": ranking[-SHOWN:].flip(0),
        }
        return Debiased(represent=represent, head=head, cut=self.layers, info=info, arrays=arrays)

    def _start(self, trainable: Trainable, law: TrainingObjective, theta: Tensor) -> Minimum:
        """θ̂: as trained for the published step, else converged on train."""
        if self.steps == 1:
            return Minimum(theta=theta, iterations=0, grad_norm=0.0, converged=False)
        return trainable.minimise(law, theta, max_iter=self.steps)

    def _bias(self, problem: Problem) -> Bias:
        own, cf = problem.pairs, problem.pairs_cf
        if self.bias == "counterfactual":
            return CounterfactualBias(own.x, cf.x, own.y, signed=self.signed)
        both = own + cf
        if self.bias == "demographic_parity":
            return DemographicParity(both.x, both.a)
        return EqualOpportunity(both.x, both.y, both.a)

    def _identified(self, problem: Problem, trainable: Trainable, theta: Tensor) -> dict[str, Any]:
        """The bias of θ̂ on the pairs: what there is to be removed."""
        own, cf = problem.pairs, problem.pairs_cf
        logits, logits_cf = (trainable.logits(theta, f.x) for f in (own, cf))
        signed = bias_of_pairs(logits, logits_cf, own.y, signed=True)
        return {
            "counterfactual_bias": float(signed.abs().mean()),
            "signed": float(signed.mean()),
            "delta": self.delta,
            "biased_share": float(biased(signed, self.delta).double().mean()),
        }

    def _thinned(self, problem: Problem) -> Problem | None:
        """The problem on evenly spaced training samples, if there is something to choose and enough of them."""
        every = len(problem.train) // self.search
        if (
            self.strategy != "external"
            or len(self._alphas(problem)) * len(self.damping) == 1
            or self.steps == 1
            or every < 2
        ):
            return None
        train = problem.train
        return replace(problem, train=Features(train.x[::every], train.y[::every], train.a[::every]))

    def _alphas(self, problem: Problem) -> Sequence[float]:
        if self.alpha is not None:
            return self.alpha
        return tuple(1 - 1 / (1 + times * (problem.n_attributes - 1)) for times in (0.5, 1.0, 2.0))

    def _influence(self, problem: Problem, trainable: Trainable, law: TrainingObjective, start: Minimum) -> Influence:
        inverse = trainable.inverse(law, start.theta, self.solver, problem.seed)
        return trainable.influence(law, start.theta, self._bias(problem), inverse)

    def _outcomes(
        self, problem: Problem, trainable: Trainable, theta: Tensor, at: Tensor | None = None
    ) -> "list[_Outcome]":
        """Where each candidate led, and how it scores on val. `at` is where to start on the edited objective."""
        outcomes = []
        for damping in self.damping:
            law = law_of(problem, damping)
            start = self._start(trainable, law, theta)
            external = self.strategy == "external"
            influence = None if external else self._influence(problem, trainable, law, start)
            for told, found in (
                self._by_alpha(problem, trainable, law, start, at)
                if influence is None
                else self._by_number(problem, trainable, law, start, influence)
            ):
                value = score(trainable.logits(found.theta, problem.val.x), problem.val, problem, self.select)
                told = {"damping": damping, "l2": law.l2, **told, f"val_{self.select}": value}
                outcomes.append(_Outcome(told, value, found, start, law, influence))
        return outcomes

    def _by_alpha(
        self, problem: Problem, trainable: Trainable, law: TrainingObjective, start: Minimum, at: Tensor | None
    ) -> Iterator[tuple[dict[str, Any], Minimum]]:
        """The external strategy, for each weight of the pairs."""
        rows = self._pairs(problem)
        own, cf = problem.pairs, problem.pairs_cf
        told: dict[str, Any] = {"pairs": len(rows)}
        if self.steps == 1:
            moved = published_step(
                trainable, law, start.theta, trainable.inverse(law, start.theta, self.solver, problem.seed),
                removed=(own.x[rows], own.y[rows]), added=(cf.x[rows], cf.y[rows]),
            )  # fmt: skip
            yield told, _stepped(moved)
            return
        at = start.theta if at is None else at
        for alpha in self._alphas(problem):
            edited = external(law, start.theta, cf.x[rows], cf.y[rows], alpha=alpha)
            found = trainable.minimise(edited, at, max_iter=self.steps)
            yield {**told, "alpha": alpha}, found
            at = found.theta

    def _by_number(
        self, problem: Problem, trainable: Trainable, law: TrainingObjective, start: Minimum, influence: Influence
    ) -> Iterator[tuple[dict[str, Any], Minimum]]:
        """The strategies on training samples, for each number of them."""
        at = torch.zeros_like(start.theta) if self.from_scratch else start.theta
        for number in self._numbers(influence):
            rows = influence.ranking()[:number]
            cf = problem.counterfactual(rows) if self.strategy == "replace" else None
            told = {"samples": number, "predicted_change": influence.predicted_change(rows)}
            if self.steps == 1:
                added = None if cf is None else (cf.x, cf.y)
                removed = (problem.train.x[rows], problem.train.y[rows])
                inverse = trainable.inverse(law, at, self.solver, problem.seed)
                yield told, _stepped(published_step(trainable, law, at, inverse, removed=removed, added=added))
            else:
                edited = without(law, rows) if cf is None else replaced(law, rows, cf.x)
                yield told, trainable.minimise(edited, at, max_iter=self.steps)

    def _pairs(self, problem: Problem) -> Tensor:
        generator = torch.Generator().manual_seed(problem.seed)
        order = torch.randperm(len(problem.pairs), generator=generator).to(problem.pairs.y.device)
        return order[: self.number]

    def _numbers(self, influence: Influence) -> list[int]:
        limit = influence.removal_limit()
        if self.strategy == "replace":
            limit = int((influence.values > 0).sum())
        if limit == 0:
            raise ValueError(f"the bias is {influence.bias:.3g}, and no training sample raises it: nothing to unlearn")
        if self.number is None:
            return sorted({max(1, int(share * limit)) for share in _SHARES})
        if self.strategy == "unlearn" and self.number > limit:
            raise ValueError(
                f"number is {self.number}, but the predicted bias reaches 0 after {limit} samples: leave out at most "
                "so many"
            )
        return [self.number]


@dataclass(frozen=True)
class _Outcome:
    told: dict[str, Any]
    score: float
    found: Minimum
    start: Minimum
    law: TrainingObjective
    influence: Influence | None


def law_of(problem: Problem, damping: float) -> TrainingObjective:
    """The training objective on train, with λ = damping · E[x_j²] over samples and features."""
    x = problem.train.x
    return TrainingObjective(x=x, y=problem.train.y, l2=damping * float(x.double().square().mean()))


def certification(strategy: Strategy) -> dict[str, Any]:
    """Whether what was removed is certified to be gone, and if not, why.

    Only removals that were fixed before training, from an objective trained under a secret perturbation, can be: see
    `efface.unlearning.certified`. The samples here are chosen by the model that was trained on them.
    """
    if strategy == "external":
        reason = "the external strategy removes no training sample"
    else:
        reason = "the samples were chosen from the trained model, whose training was not perturbed"
    return {"certified": False, "certified_reason": reason}


def _stepped(theta: Tensor) -> Minimum:
    return Minimum(theta=theta, iterations=1, grad_norm=0.0, converged=False)


def _head(problem: Problem) -> Head:
    return Head(n_classes=problem.n_classes, bias=problem.head.bias is not None)


def _layers(stack: nn.Sequential) -> Layers:
    return Layers(module=stack)


def _debiased_layers(theta: Tensor, stack: nn.Sequential | None, problem: Problem) -> tuple[Representation, nn.Linear]:
    if stack is None:
        return Representation(), head_of(theta, bias=problem.head.bias is not None)
    *inner, last = (i for i, layer in enumerate(stack) if isinstance(layer, nn.Linear))
    tensors = _layers(stack).tensors(theta)
    named = {
        f"{kind}_{i}": tensors[f"{at}.{kind}"].clone()
        for i, at in enumerate(inner)
        for kind in ("weight", "bias")
        if f"{at}.{kind}" in tensors
    }
    parts = [tensors[f"{last}.weight"]]
    bias = tensors.get(f"{last}.bias")
    if bias is not None:
        parts.append(bias[:, None])
    return Rectified(**named), head_of(torch.cat(parts, 1), bias=bias is not None)
