"""Fast Model Debias as methods of the grid (Chen et al., 2023): what its strategies share.

FMD finds out how biased a model is, which training samples made it so, and moves its parameters to where they would be
without. `FmdPairs`, `FmdSamples` and `FmdPublishedStep` differ in how they move them.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from efface.data.groups import Rule, aligned
from efface.debiased import Debiased
from efface.methods.base import Method, NotApplicable
from efface.methods.gathering import require_classes
from efface.methods.matching import Matching, rematched, require_matching
from efface.methods.retraining import Part, part_of, training_objective
from efface.methods.selection import score_on_val
from efface.options import Ge, Gt, Le, Len, options
from efface.problem import Features, Problem
from efface.unlearning.bias import Bias, CounterfactualBias, DemographicParity, EqualOpportunity, biased
from efface.unlearning.bias import counterfactual_bias as bias_of_pairs
from efface.unlearning.edits import Strategy, check_pairs
from efface.unlearning.influence import Influence
from efface.unlearning.inverse import InverseSolver
from efface.unlearning.objective import Minimum, TrainingObjective

SHOWN = 24
"""How many of the most harmful and of the most helpful samples are recorded, with their images."""

BiasName = Literal["counterfactual", "signed_counterfactual", "demographic_parity", "equal_opportunity"]
Damping = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Edited:
    """Where a strategy moved θ, and what it started from."""

    strategy: Strategy
    theta: Tensor
    objective: TrainingObjective
    """The training objective, before it was edited."""
    start: Tensor
    """θ̂, from which θ was moved: bias and influence are measured there."""
    influence: Influence | None = None
    """None if the strategy did not need it."""
    info: dict[str, Any] = field(default_factory=dict)
    """For the record."""


@options
class FmdBase(Method):
    """Measure the bias of a model and its causes, then move its parameters by a strategy.

    A strategy is a subclass that implements `edit`.

    Args:
        matching: which samples are pairs, if a pair is two samples: as `given` by the data set, or each sample with
            the `nearest` in the features.
        layers: how many of the last linear layers are re-trained together; 1 for the head, whose Hessian is exact.
        bias: which bias training samples are blamed for. `signed_counterfactual` leaves out the absolute value, as for
            pairs of one direction.
        delta: a pair is called biased if the absolute value of its bias exceeds this.
        solver: how the inverse Hessian of the head is applied. Several layers have none to factor, and take `auto`.
    """

    matching: Matching = "given"
    layers: Annotated[int, Ge(1)] = 1
    bias: BiasName = "counterfactual"
    delta: Annotated[float, Ge(0), Le(1)] = 0.1
    solver: InverseSolver = "auto"

    elsewhere: ClassVar[dict[str, str]] = {
        "alpha": "FmdPairs has it (method=fmd or fmd_top)",
        "search": "FmdPairs has it (method=fmd or fmd_top)",
        "from_scratch": "FmdSamples has it (method=fmd_unlearn, fmd_replace or retrain)",
        "strategy": "FmdSamples (method=fmd_unlearn, fmd_replace or retrain) and FmdPublishedStep (method="
        "fmd_published) have it",
        "steps": "FmdPairs and FmdSamples have it",
        "select": "FmdPairs and FmdSamples have it",
        "signed": "use bias='signed_counterfactual'",
    }
    """Options of other strategies, and where they are: said to whoever sets them here."""

    def __post_init__(self) -> None:
        if self.layers > 1 and self.solver != "auto":
            raise ValueError(
                f"solver is {self.solver!r}, but layers={self.layers} are solved by conjugate gradients, matrix-free: "
                "leave it at 'auto', or use layers=1"
            )

    def training_data(self, problem: Problem) -> Features:
        if len(problem.pairs) == 0:
            raise NotApplicable("the data set has no counterfactual pairs")
        if len(problem.pairs.a.unique()) < 2 and len(problem.pairs_cf.a.unique()) < 2:
            raise NotApplicable("the attribute has one value only among the pairs")
        require_matching(problem, self.matching)
        require_classes(problem.train, problem.n_classes, "in train")
        return part_of(problem, self.layers).problem.train

    def fit(self, problem: Problem) -> Debiased:
        self.training_data(problem)  # says if it cannot run
        part = part_of(rematched(problem, self.matching), self.layers)
        check_pairs(part.problem.pairs.y, part.problem.pairs_cf.y)
        edited = self.edit(part)
        influence = edited.influence or self.influence(part, edited.objective, edited.start)
        represent, head = part.model(edited.theta)
        info = {
            "strategy": edited.strategy,
            **edited.info,
            "identified": self._identified(part, edited.start),
            "influence": _summary(influence, part.problem),
            **certification(edited.strategy),
        }
        ranking = influence.ranking()
        arrays = {
            "influence": influence.values.float(),
            "harmful_rows": ranking[:SHOWN],
            "helpful_rows": ranking[-SHOWN:].flip(0),
        }
        return Debiased(represent=represent, head=head, cut=self.layers, info=info, arrays=arrays)

    @abstractmethod
    def edit(self, part: Part) -> Edited:
        """Move the parameters of a part."""

    def influence(self, part: Part, objective: TrainingObjective, theta: Tensor) -> Influence:
        """Compute the influence of every training sample on the bias, at the minimum θ of the objective."""
        inverse = part.trainable.inverse(objective, theta, self.solver, part.problem.seed)
        return part.trainable.influence(objective, theta, self._functional(part.problem), inverse)

    def _functional(self, problem: Problem) -> Bias:
        pairs, pairs_cf = problem.pairs, problem.pairs_cf
        if self.bias in ("counterfactual", "signed_counterfactual"):
            signed = self.bias == "signed_counterfactual"
            return CounterfactualBias(pairs.x, pairs_cf.x, pairs.y, signed=signed)
        both = pairs + pairs_cf
        if self.bias == "demographic_parity":
            return DemographicParity(both.x, both.a)
        return EqualOpportunity(both.x, both.y, both.a)

    def _identified(self, part: Part, theta: Tensor) -> dict[str, Any]:
        """Measure the counterfactual bias of θ on the pairs: how much there is to remove."""
        pairs, pairs_cf = part.problem.pairs, part.problem.pairs_cf
        logits, logits_cf = (part.trainable.logits(theta, data.x) for data in (pairs, pairs_cf))
        signed = bias_of_pairs(logits, logits_cf, pairs.y, signed=True)
        return {
            "counterfactual_bias": float(signed.abs().mean()),
            "signed": float(signed.mean()),
            "delta": self.delta,
            "biased_share": float(biased(signed, self.delta).double().mean()),
        }


@dataclass(frozen=True)
class Converged:
    """The training objective with one damping, and its minimum θ̂."""

    damping: float
    objective: TrainingObjective
    minimum: Minimum


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An edit of the training objective, followed to its minimum. Subclasses say which edit."""

    searched: ClassVar[tuple[str, ...]] = ("damping",)

    start: Converged
    minimum: Minimum
    """Of the edited objective."""
    score: float
    """On val."""

    def facts(self) -> dict[str, Any]:
        """Return the setting, for the record."""
        return {"damping": self.start.damping, "l2": self.start.objective.l2}


@options
class FmdMinimum(FmdBase):
    """Converge the part on train, edit the objective, and follow its minimum by damped Newton steps with backtracking.

    The objective of a head is convex, so that no step can destroy the model. That of several layers is not, and its
    minimum is a local one.

    Args:
        steps: how many steps at most, before the edit and after it.
        damping: candidates for λ, in units of the mean square of a feature; the best on val is taken.
        select: the rule on val, see `efface.data.groups.val_score`.
    """

    steps: Annotated[int, Ge(1)] = 100
    damping: Annotated[Sequence[Damping], Len(1)]
    select: Rule = "unbiased_accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps == 1:
            raise ValueError("steps is 1: the published single Newton step is FmdPublishedStep (method=fmd_published)")

    def converge(self, part: Part, damping: float, theta: Tensor) -> Converged:
        """Minimise the training objective from θ."""
        objective = training_objective(part.problem, damping)
        return Converged(damping, objective, part.trainable.minimise(objective, theta, max_iter=self.steps))

    def follow(self, part: Part, edited: TrainingObjective, theta: Tensor) -> tuple[Minimum, float]:
        """Minimise an edited objective from θ. Returns the minimum, and its score on val."""
        minimum = part.trainable.minimise(edited, theta, max_iter=self.steps)
        logits = part.trainable.logits(minimum.theta, part.problem.val.x)
        return minimum, score_on_val(logits, part.problem, self.select)


def outcome(
    strategy: Strategy, best: Candidate, selection: dict[str, Any], influence: Influence | None = None
) -> Edited:
    """Return where the best candidate ended, with how its minimisation and the selection went."""
    start = best.start
    info = {
        "steps": best.minimum.iterations, "converged": best.minimum.converged, "grad_norm": best.minimum.grad_norm,
        "base_converged": start.minimum.converged, **selection,
    }  # fmt: skip
    return Edited(
        strategy=strategy, theta=best.minimum.theta, objective=start.objective, start=start.minimum.theta,
        influence=influence, info=info,
    )  # fmt: skip


def samples_to_edit(influence: Influence, strategy: Strategy, number: int | None) -> int:
    """Return how many of the most harmful training samples to edit: `number`, or as many as make sense if None.

    `unlearn` may leave samples out until the predicted bias is 0. `replace` may replace all that are harmful.

    Raises:
        ValueError: no sample is harmful, or `unlearn` would leave out more than that.
    """
    limit = influence.removal_limit() if strategy == "unlearn" else int((influence.values > 0).sum())
    if limit == 0:
        raise ValueError(f"the bias is {influence.bias:.3g}, and no training sample raises it: nothing to unlearn")
    if strategy == "unlearn" and number is not None and number > limit:
        raise ValueError(
            f"number is {number}, but the predicted bias reaches 0 after {limit} samples: leave out at most so many"
        )
    return limit if number is None else number


def require_samples(problem: Problem, strategy: Strategy, number: int | None) -> None:
    """Require that a strategy on training samples can be applied to `number` of them.

    Raises:
        NotApplicable: there are too few, or `replace` is asked for where they have no counterfactuals.
    """
    if strategy == "replace" and not problem.flippable:
        raise NotApplicable("strategy=replace: no counterfactual of a training sample exists in these data")
    available = len(problem.train) - 1
    if number is not None and number > available:
        raise NotApplicable(f"number={number}: there are {available} training samples that can be taken")


def certification(strategy: Strategy) -> dict[str, Any]:
    """Say whether what was removed is certified to be gone, and if not, why.

    Only removals that were fixed without a look at the model, and whose result is released with noise, can be: see
    `efface.unlearning.certified`. The samples here are chosen by the model that was trained on them.
    """
    if strategy == "external":
        reason = "the external strategy removes no training sample"
    else:
        reason = "the samples were chosen by the trained model, and the result carries no noise"
    return {"certified": False, "certified_reason": reason}


def _summary(influence: Influence, problem: Problem) -> dict[str, Any]:
    train = problem.train
    is_aligned = aligned(train.y, train.a, problem.n_classes, problem.n_attributes)[train.y, train.a]
    return influence.summary(is_aligned, top=min(1000, len(train) // 10))
