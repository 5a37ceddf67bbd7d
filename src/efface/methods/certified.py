"""Certified removal of bias-aligned training samples, as a method of the grid."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from efface.data.groups import aligned, group_counts, groups
from efface.debiased import Debiased
from efface.problem import Features, Problem
from efface.representations import InUnitBall
from efface.unlearning.certified.objective import Link
from efface.unlearning.certified.removal import Budget, CertifiedLogisticRegression


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Trains a head that can forget (Guo et al., 2020) on the features of train, and makes it forget bias.

    Which samples go is fixed by labels, attributes and chance, before training and without a look at the model, as the
    certificate requires: see `surplus`. It is for the weights and what is computed from them, such as predictions;
    `budget_spent` in the record is for the owner of the data.

    Args:
        removals: how many bias-aligned samples to remove; None for all of the surplus.
        batch_size: how many in one step.
        lam, sigma, epsilon, delta, budget, max_norm, tol: see `CertifiedLogisticRegression`.
        loss: `auto` is `logistic` for two classes and for budget `bound`, else `softmax`.
        secret: draw the perturbation from the system's entropy. Otherwise from the run's seed: the run can then be
            repeated to the bit, but as the record holds the seed, nothing is certified.
    """

    removals: int | None = None
    batch_size: int = 100
    lam: float = 1e-3
    sigma: float = 0.01
    epsilon: float = 1.0
    delta: float = 1e-5
    budget: Budget = "measured"
    loss: Literal["auto", "logistic", "softmax"] = "auto"
    max_norm: float = 0.0
    tol: float = 1e-6
    secret: bool = True

    uses_attribute_at_test: ClassVar[bool] = False
    small: ClassVar[dict[str, Any]] = {"removals": 40, "batch_size": 20, "secret": False}

    def __post_init__(self) -> None:
        if self.removals is not None and self.removals < 0:
            raise ValueError(f"removals is {self.removals}, but must be >= 0, or null for all of the surplus")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, but must be at least 1")
        if self.loss not in ("auto", "logistic", "softmax"):
            raise ValueError(f"loss is {self.loss!r}, but must be 'auto', 'logistic' or 'softmax'")
        self._model(2)  # it checks the others

    def skip(self, problem: Problem) -> str | None:
        if self.removals == 0:
            return None
        available = int(surplus(problem.train, problem.n_classes, problem.n_attributes).sum())
        if available == 0:
            return "no label of train has a surplus of bias-aligned samples"
        if self.removals is not None and self.removals > available:
            return f"removals={self.removals}: train has a surplus of {available} bias-aligned samples only"
        return None

    def fit(self, problem: Problem) -> Debiased:
        train = problem.train
        requests = choose(train, self.removals, problem)
        model = self._model(problem.n_classes, None if self.secret else problem.seed)
        model.fit(train.x, train.y, n_classes=problem.n_classes)
        done = [model.remove(batch, retrain=True) for batch in requests.split(self.batch_size)]
        until = next((i for i, step in enumerate(done) if step.retrained), len(done))
        left = model.remaining.to(train.x.device)
        reason = self._why_not(problem)
        info = {
            "certified": reason is None, "certified_reason": reason, "epsilon": self.epsilon, "delta": self.delta,
            "sigma": self.sigma, "budget": self.budget, "budget_allowed": model.allowance,
            "budget_spent": model.spent, "removed": len(requests), "n_fit": len(left), "loss": model.loss,
            "removed_before_retraining": sum(step.removed for step in done[:until]),
            "retrained": sum(step.retrained for step in done), "newton_steps": sum(step.newton_steps for step in done),
            "cg_steps": sum(step.cg_steps for step in done),
        }  # fmt: skip
        return Debiased(
            represent=InUnitBall(max_norm=torch.tensor(self.max_norm, device=train.x.device)),
            head=model.head(train.x.dtype),
            fitted_on=Features(train.x[left], train.y[left], train.a[left]),
            info=info,
            arrays={"budget_spent": torch.tensor([step.spent for step in done], dtype=torch.float64)},
        )

    def _model(self, n_classes: int, seed: int | None = None) -> CertifiedLogisticRegression:
        loss: Link = "softmax" if n_classes > 2 and self.budget == "measured" else "logistic"
        return CertifiedLogisticRegression(
            self.lam, self.sigma, self.epsilon, self.delta, budget=self.budget, max_norm=self.max_norm, tol=self.tol,
            loss=loss if self.loss == "auto" else self.loss,
            generator=None if seed is None else torch.Generator().manual_seed(seed),
        )  # fmt: skip

    def _why_not(self, problem: Problem) -> str | None:
        """Why the removal is not certified, or None."""
        if not problem.features_are_inputs:
            return (
                "the features come from an extractor that was trained on the removed samples: only the head has "
                "forgotten them; model=linear works on the inputs"
            )
        if not self.secret:
            return "the perturbation was drawn from the seed, which the record holds: secret=true keeps it secret"
        return None


def surplus(data: Features, n_classes: int, n_attributes: int) -> Tensor:
    """How many samples each group has beyond the mean of its label's bias-conflicting groups.

    Without their surplus, aligned and conflicting groups of a label are equally large.

    Returns:
        `[n_classes, n_attributes]` int64; 0 for groups that are not bias-aligned.
    """
    counts = group_counts(data.y, data.a, n_classes, n_attributes)
    is_aligned = aligned(data.y, data.a, n_classes, n_attributes)
    conflicting = (counts * ~is_aligned).sum(1, keepdim=True) / (~is_aligned).sum(1, keepdim=True).clamp_min(1)
    return torch.where(is_aligned, (counts - conflicting).clamp_min(0), 0).to(torch.int64)


def choose(data: Features, removals: int | None, problem: Problem) -> Tensor:
    """Rows to remove: at random within groups, from each in proportion to its surplus, and dealt out evenly over time.

    A function of labels, attributes and the seed alone.
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
