"""Fast Model Debias as methods of the grid (Chen et al., 2023): what its strategies share.

FMD finds out how biased a model is, which training samples made it so, and moves its parameters to where they would be
without. `FmdPairs`, `FmdSamples` and `FmdPublishedStep` differ in how they move them.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from efface.data.groups import aligned
from efface.debiased import Debiased
from efface.methods.base import Method, NotApplicable
from efface.methods.candidates import Edit
from efface.methods.gathering import require_classes
from efface.methods.matching import Matching, rematched, require_matching
from efface.methods.path import PathMethod
from efface.methods.retraining import Part, part_of, standardised
from efface.options import Ge, Le, options
from efface.problem import Features, Problem
from efface.unlearning.bias import Bias, CounterfactualBias, DemographicParity, EqualOpportunity, biased
from efface.unlearning.bias import counterfactual_bias as bias_of_pairs
from efface.unlearning.edits import Strategy, check_pairs
from efface.unlearning.influence import Influence
from efface.unlearning.objective import TrainingObjective

SHOWN = 24
"""How many of the most harmful and of the most helpful samples are recorded, with their images."""

INFLUENCE_PENALTY = 1e-4
"""λ of the objective that influence is measured on, over its largest curvature: it makes the Hessian invertible."""

Solver = Literal["auto", "cholesky", "cg"]
"""Ways to apply the inverse Hessian. LiSSA is none: it needs more damping than these objectives have."""

BiasName = Literal["counterfactual", "signed_counterfactual", "demographic_parity", "equal_opportunity"]


@dataclass(frozen=True, kw_only=True)
class Edited:
    """What a strategy made of a model."""

    strategy: Strategy
    model: Debiased
    objective: TrainingObjective
    """The training objective before it was edited, of which influence is measured."""
    influence: Influence | None = None
    """None if the strategy did not need it."""
    info: dict[str, Any] = field(default_factory=dict)
    """For the record."""


@options
class FmdBase(Method):
    """Measure the bias of a model and its causes, then move its parameters by a strategy.

    A strategy is a subclass that implements `edit`. Bias and influence are those of the model as it was trained.
    An unfinished model is treated as the minimum of the training objective minus its linear term there, so that
    influence is exact to first order.

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
    solver: Solver = "auto"

    elsewhere: ClassVar[dict[str, str]] = {
        "alpha": "FmdPairs has it (method=fmd or fmd_top)",
        "from_scratch": "FmdSamples has it (method=fmd_unlearn, fmd_replace or retrain)",
        "strategy": "FmdSamples (method=fmd_unlearn, fmd_replace or retrain) and FmdPublishedStep (method="
        "fmd_published) have it",
        "damping": "FmdPublishedStep has it (method=fmd_published); the others have penalties",
        "penalties": "FmdPairs and FmdSamples have it",
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
        part = self.part(rematched(problem, self.matching))
        check_pairs(part.pairs.y, part.pairs_cf.y)
        edited = self.edit(part)
        influence = edited.influence or self.influence(part, edited.objective)
        info = {
            "strategy": edited.strategy,
            **edited.info,
            "identified": self._identified(part),
            "influence": _summary(influence, part.problem),
            **certification(edited.strategy),
        }
        ranking = influence.ranking()
        arrays = {
            "influence": influence.values.float(),
            "harmful_rows": ranking[:SHOWN],
            "helpful_rows": ranking[-SHOWN:].flip(0),
        }
        return replace(edited.model, info=info, arrays=arrays)

    def part(self, problem: Problem) -> Part:
        """Return what is re-trained."""
        return part_of(problem, self.layers)

    @abstractmethod
    def edit(self, part: Part) -> Edited:
        """Move the parameters of a part."""

    def influence(self, part: Part, objective: TrainingObjective) -> Influence:
        """Compute the influence of every training sample on the bias of the model as it was trained."""
        inverse = part.trainable.inverse(objective, part.theta, self.solver, part.problem.seed)
        return part.trainable.influence(objective, part.theta, self._functional(part), inverse)

    def _functional(self, part: Part) -> Bias:
        pairs, pairs_cf = part.pairs, part.pairs_cf
        if self.bias in ("counterfactual", "signed_counterfactual"):
            signed = self.bias == "signed_counterfactual"
            return CounterfactualBias(pairs.x, pairs_cf.x, pairs.y, signed=signed)
        both = pairs + pairs_cf
        if self.bias == "demographic_parity":
            return DemographicParity(both.x, both.a)
        return EqualOpportunity(both.x, both.y, both.a)

    def _identified(self, part: Part) -> dict[str, Any]:
        """Measure the counterfactual bias of the model on the pairs: how much there is to remove."""
        logits, logits_cf = (part.trainable.logits(part.theta, data.x) for data in (part.pairs, part.pairs_cf))
        signed = bias_of_pairs(logits, logits_cf, part.pairs.y, signed=True)
        return {
            "counterfactual_bias": float(signed.abs().mean()),
            "signed": float(signed.mean()),
            "delta": self.delta,
            "biased_share": float(biased(signed, self.delta).double().mean()),
        }


@options
class FmdPath(FmdBase, PathMethod):
    """Edit the training objective, and follow its minima on a regularisation path around the model as it was trained.

    A strategy is a subclass that implements `edit` with `moved`. The objective of a head is convex, so that no step
    can destroy the model. That of several layers is not, and its minima are local ones.
    """

    small: ClassVar[dict[str, Any]] = {"penalties": [1.0, 1e-3], "steps": 4}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps == 1:
            raise ValueError("steps is 1: the published single Newton step is FmdPublishedStep (method=fmd_published)")

    def part(self, problem: Problem) -> Part:
        return standardised(super().part(problem))

    def moved(
        self,
        strategy: Strategy,
        part: Part,
        objective: TrainingObjective,
        edits: Iterable[Edit],
        *,
        from_scratch: bool = False,
    ) -> Edited:
        """Follow the paths of the edits of an objective, and return the chosen point of all."""
        chosen, info = self.follow(part, edits, from_scratch=from_scratch)
        return Edited(strategy=strategy, model=chosen.model, objective=objective, info=info)


def train_objective(part: Part) -> TrainingObjective:
    """Return the objective on train that influence is measured on, and that edits begin with."""
    objective = TrainingObjective(x=part.train.x, y=part.train.y)
    curvature = part.trainable.around(objective, part.theta).curvature
    return replace(objective, l2=INFLUENCE_PENALTY * curvature)


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
