"""FMD's single Newton step, as it was published."""

from typing import Annotated, Any

from efface.methods.fmd import Edited, FmdBase, require_samples, samples_to_edit
from efface.methods.gathering import drawn_pairs
from efface.methods.retraining import Part, training_objective
from efface.options import Ge, Gt, options
from efface.problem import Features, Problem
from efface.unlearning.edits import Strategy, published_step


@options
class FmdPublishedStep(FmdBase):
    """FMD as published: one full Newton step from the model as it was trained, with nothing chosen on val.

    θ' = θ̂ + H⁻¹ (Σ_removed ∇ℓ(z) − Σ_added ∇ℓ(z̄)), see `efface.unlearning.edits.published_step`. On an over-confident
    model H is nearly singular, and the step can destroy the model. `FmdPairs` and `FmdSamples` cannot.

    Args:
        strategy: `external` moves from the pairs to their counterfactual members, `unlearn` leaves the most harmful
            training samples out, `replace` puts their counterfactuals in their place.
        number: how many pairs, drawn at random, or training samples, the most harmful first. None for all pairs, or
            all samples that `unlearn` may leave out or `replace` finds harmful.
        damping: λ in units of the mean square of a feature. The published step has none, and needs some.
    """

    strategy: Strategy = "external"
    number: Annotated[int, Ge(1)] | None = None
    damping: Annotated[float, Gt(0)] = 0.1

    def training_data(self, problem: Problem) -> Features:
        data = super().training_data(problem)
        if self.strategy == "external":
            drawn_pairs(problem, self.number)  # says if there are fewer
        else:
            require_samples(problem, self.strategy, self.number)
        return data

    def edit(self, part: Part) -> Edited:
        problem, objective = part.problem, training_objective(part.problem, self.damping)
        influence = None
        if self.strategy == "external":
            removed, added = self._pairs(problem)
            size: dict[str, Any] = {"pairs": len(removed)}
        else:
            influence = self.influence(part, objective)
            rows = influence.ranking()[: samples_to_edit(influence, self.strategy, self.number)]
            removed = problem.train.take(rows)
            added = problem.counterfactual(rows) if self.strategy == "replace" else None
            size = {"samples": len(rows), "predicted_change": influence.predicted_change(rows)}
        theta = published_step(
            part.trainable,
            objective,
            part.theta,
            part.trainable.inverse(objective, part.theta, self.solver, problem.seed),
            removed=(removed.x, removed.y),
            added=None if added is None else (added.x, added.y),
        )
        info = {
            # Neither end of the step is a minimum, or near one for all that is known.
            "steps": 1,
            "converged": None,
            "grad_norm": None,
            "edit": {"damping": self.damping, "l2": objective.l2, **size},
        }
        return Edited(
            strategy=self.strategy, model=part.model(theta), objective=objective, influence=influence, info=info
        )

    def _pairs(self, problem: Problem) -> tuple[Features, Features | None]:
        rows = drawn_pairs(problem, self.number)
        return problem.pairs.take(rows), problem.pairs_cf.take(rows)
