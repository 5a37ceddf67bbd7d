"""Certified removal of bias-aligned training samples, as a method of the grid."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from efface.data.groups import aligned, group_counts, groups
from efface.debiased import Debiased
from efface.methods.base import Method, NotApplicable
from efface.options import Ge, Gt, Lt, options
from efface.problem import Features, Problem
from efface.representations import InUnitBall
from efface.unlearning.certified.objective import Link
from efface.unlearning.certified.removal import Budget, CertifiedLogisticRegression


@options
class Certified(Method):
    """Train a head that can forget (Guo et al., 2020) on the features of train, and make it forget bias.

    Labels, attributes and chance decide which samples are removed, before training and without a look at the model, as
    the certificate requires: see `surplus`. The certificate is for the weights and what is computed from them, such as
    predictions. It is not for `budget_spent` in the record, which is for the owner of the data.

    Args:
        removals: how many bias-aligned samples to remove; None for all of the surplus.
        batch_size: how many to remove in one step.
        lam: λ per sample; this and the next five as for `CertifiedLogisticRegression`.
        sigma: standard deviation of the perturbation.
        epsilon: ε of the certificate.
        delta: δ of the certificate.
        budget: what the budget is compared with: the gradient residual itself, `measured`, or the published `bound`.
        max_norm: rows are divided by the larger of their length and this; 0 scales all to length 1.
        tol: gradient norm at which training ends.
        loss: `auto` is `logistic` for two classes and for budget `bound`, else `softmax`.
        secret: draw the perturbation from the system's entropy. Otherwise from the seed of the run, which can then be
            repeated to the bit; but as the record holds the seed, nothing is certified.
    """

    removals: Annotated[int, Ge(0)] | None = None
    batch_size: Annotated[int, Ge(1)] = 100
    lam: Annotated[float, Gt(0)] = 1e-3
    sigma: Annotated[float, Gt(0)] = 0.01
    epsilon: Annotated[float, Gt(0)] = 1.0
    delta: Annotated[float, Gt(0), Lt(1)] = 1e-5
    budget: Budget = "measured"
    loss: Literal["auto", "logistic", "softmax"] = "auto"
    max_norm: Annotated[float, Ge(0)] = 0.0
    tol: Annotated[float, Gt(0)] = 1e-6
    secret: bool = True

    small: ClassVar[dict[str, Any]] = {"removals": 40, "batch_size": 20, "secret": False}

    def __post_init__(self) -> None:
        self._model(2)  # it checks how they go together

    def training_data(self, problem: Problem) -> Features:
        if self.removals == 0:
            return problem.train
        available = int(surplus(problem.train, problem.n_classes, problem.n_attributes).sum())
        if available == 0:
            raise NotApplicable("no label of train has a surplus of bias-aligned samples")
        if self.removals is not None and self.removals > available:
            raise NotApplicable(
                f"removals={self.removals}: train has a surplus of {available} bias-aligned samples only"
            )
        return problem.train

    def fit(self, problem: Problem) -> Debiased:
        train = self.training_data(problem)
        requests = choose(train, self.removals, problem)
        model = self._model(problem.n_classes, None if self.secret else problem.seed)
        model.fit(train.x, train.y, n_classes=problem.n_classes)
        steps = [model.remove(batch, retrain=True) for batch in requests.split(self.batch_size)]
        first_retraining = next((i for i, step in enumerate(steps) if step.retrained), len(steps))
        remaining = train.take(model.remaining.to(train.x.device))
        reason = self._reason_uncertified(problem)
        info = {
            "certified": reason is None, "certified_reason": reason, "epsilon": self.epsilon, "delta": self.delta,
            "sigma": self.sigma, "budget": self.budget, "budget_allowed": model.allowance,
            "budget_spent": model.spent, "removed": len(requests), "n_fit": len(remaining), "loss": model.loss,
            "removed_before_retraining": sum(step.removed for step in steps[:first_retraining]),
            "retrained": sum(step.retrained for step in steps),
            "newton_steps": sum(step.newton_steps for step in steps), "cg_steps": sum(step.cg_steps for step in steps),
        }  # fmt: skip
        return Debiased(
            represent=InUnitBall(max_norm=torch.tensor(self.max_norm, device=train.x.device)),
            head=model.head(train.x.dtype),
            fitted_on=remaining,
            info=info,
            arrays={"budget_spent": torch.tensor([step.spent for step in steps], dtype=torch.float64)},
        )

    def _model(self, n_classes: int, seed: int | None = None) -> CertifiedLogisticRegression:
        loss: Link = "softmax" if n_classes > 2 and self.budget == "measured" else "logistic"
        return CertifiedLogisticRegression(
            self.lam, self.sigma, self.epsilon, self.delta, budget=self.budget, max_norm=self.max_norm, tol=self.tol,
            loss=loss if self.loss == "auto" else self.loss,
            generator=None if seed is None else torch.Generator().manual_seed(seed),
        )  # fmt: skip

    def _reason_uncertified(self, problem: Problem) -> str | None:
        """Say why the removal is not certified, or None if it is."""
        if not problem.features_are_inputs:
            return (
                "the features come from an extractor that was trained on the removed samples: only the head has "
                "forgotten them; model=linear works on the inputs"
            )
        if not self.secret:
            return "the perturbation was drawn from the seed, which the record holds: secret=true keeps it secret"
        return None


def surplus(data: Features, n_classes: int, n_attributes: int) -> Tensor:
    """Count the samples that each group has beyond the mean of its label's bias-conflicting groups.

    Without their surplus, aligned and conflicting groups of a label are equally large.

    Returns:
        `[n_classes, n_attributes]` int64; 0 for groups that are not bias-aligned.
    """
    counts = group_counts(data.y, data.a, n_classes, n_attributes)
    is_aligned = aligned(data.y, data.a, n_classes, n_attributes)
    conflicting = (counts * ~is_aligned).sum(1, keepdim=True) / (~is_aligned).sum(1, keepdim=True).clamp_min(1)
    return torch.where(is_aligned, (counts - conflicting).clamp_min(0), 0).to(torch.int64)


def choose(data: Features, removals: int | None, problem: Problem) -> Tensor:
    """Choose the rows to remove: at random within groups, from each in proportion to its surplus, evenly over time.

    Labels, attributes and the seed decide alone.
    """
    extra = surplus(data, problem.n_classes, problem.n_attributes).flatten()
    generator = torch.Generator().manual_seed(problem.seed)
    order = torch.randperm(len(data), generator=generator)
    group = groups(data.y, data.a, problem.n_attributes).cpu()[order]
    by_group = torch.argsort(group, stable=True)
    counts = torch.bincount(group, minlength=len(extra))
    rank = torch.empty_like(order)
    rank[by_group] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[group[by_group]]
    # The j-th of m rows of a group goes at time (j + ½) / m: any beginning of the list takes from all in proportion.
    extra = extra.cpu()[group]
    time = (rank + 0.5) / extra
    chosen = (rank < extra).nonzero()[:, 0]
    chosen = chosen[torch.argsort(time[chosen], stable=True)]
    return order[chosen][:removals].to(data.y.device)
