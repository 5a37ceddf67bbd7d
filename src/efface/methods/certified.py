"""Removal of bias-aligned training samples, certified and as published, as methods of the grid."""

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
from efface.unlearning.certified.published import PublishedRemoval
from efface.unlearning.certified.regression import LinearModel
from efface.unlearning.certified.removal import CertifiedLogisticRegression


@options
class RemovalOfSurplus(Method):
    """What both procedures share: which samples go, and the objective.

    Labels, attributes and chance decide which samples are removed, before training and without a look at the model: see
    `surplus`.

    Args:
        removals: how many bias-aligned samples to remove; None for all of the surplus.
        batch_size: how many to remove in one step.
        lam: λ per sample.
        epsilon: ε.
        delta: δ.
        max_norm: rows are divided by the larger of their length and this; 0 scales all to length 1.
    """

    removals: Annotated[int, Ge(0)] | None = None
    batch_size: Annotated[int, Ge(1)] = 100
    lam: Annotated[float, Gt(0)] = 1e-3
    epsilon: Annotated[float, Gt(0)] = 1.0
    delta: Annotated[float, Gt(0), Lt(1)] = 1e-5
    max_norm: Annotated[float, Ge(0)] = 0.0

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

    def _debiased(self, train: Features, model: LinearModel, remaining: Tensor, info: dict[str, Any]) -> Debiased:
        """Put together what came out; `info` of the procedure joins what both record."""
        facts = {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "loss": model.loss,
            "removed": len(train) - len(remaining),
            "n_fit": len(remaining),
        }
        return Debiased(
            represent=InUnitBall(max_norm=torch.tensor(self.max_norm, device=train.x.device)),
            head=model.head(train.x.dtype),
            fitted_on=train.take(remaining.to(train.x.device)),
            info=info | facts,
        )


@options
class Certified(RemovalOfSurplus):
    """Train a head that can forget, on the features of train, make it forget bias, and release it once.

    The certificate is for the released head and what is computed from it, such as predictions, and not for how
    long it took. See `efface.CertifiedLogisticRegression` for what it says and does not say.

    Args:
        residual: the gradient norm that training and removals reach; the noise of the release is proportional to it.
        loss: `auto` is `logistic` for two classes, else `softmax`.
        secret: draw the noise from the system's entropy. Otherwise from the seed of the run, which can then be repeated
            to the bit; but as the record holds the seed, nothing is certified.
    """

    residual: Annotated[float, Gt(0)] = 1e-6
    loss: Literal["auto", "logistic", "softmax"] = "auto"
    secret: bool = True

    small: ClassVar[dict[str, Any]] = {"removals": 40, "batch_size": 20, "secret": False}

    def fit(self, problem: Problem) -> Debiased:
        train = self.training_data(problem)
        auto: Link = "softmax" if problem.n_classes > 2 else "logistic"
        model = CertifiedLogisticRegression(
            self.lam,
            self.epsilon,
            self.delta,
            residual=self.residual,
            max_norm=self.max_norm,
            loss=auto if self.loss == "auto" else self.loss,
            generator=None if self.secret else torch.Generator().manual_seed(problem.seed),
        ).fit(train.x, train.y, n_classes=problem.n_classes)
        for batch in choose(train, self.removals, problem).split(self.batch_size):
            model.remove(batch)
        release, reason = model.release(), self._reason_uncertified(problem)
        info = {
            "certified": reason is None,
            "certified_reason": reason,
            "residual": self.residual,
            "noise": release.certificate.noise,
        }
        return self._debiased(train, release, model.remaining, info)

    def _reason_uncertified(self, problem: Problem) -> str | None:
        """Say why the removal is not certified, or None if it is."""
        if not problem.features_are_inputs:
            return (
                "the features come from an extractor that was trained on the removed samples: only the head has "
                "forgotten them; model=linear works on the inputs"
            )
        if problem.per_sample_inputs is None:
            return (
                "it is not known whether the inputs of the remaining samples were computed without the removed ones; "
                "where they were, dataset.per_sample_inputs=true says so (dataset=features)"
            )
        if not problem.per_sample_inputs:
            return (
                "the inputs of the remaining samples were scaled or merged by statistics of the removed ones too; "
                "of your own features, dataset.standardise=false dataset.per_sample_inputs=true"
            )
        if not self.secret:
            return "the noise was drawn from the seed, which the record holds: secret=true keeps it secret"
        return None


@options
class PublishedCertified(RemovalOfSurplus):
    """The same by the procedure of Guo et al. (2020) as published, for comparison: its (ε, δ) does not hold.

    It perturbs the objective, adds up a bound of what is left of removed samples, and trains anew when the budget is
    spent. See `efface.unlearning.certified.published`. Perturbations come from the seed of the run.

    Args:
        sigma: standard deviation of the perturbation.
    """

    sigma: Annotated[float, Gt(0)] = 0.01

    small: ClassVar[dict[str, Any]] = {"removals": 40, "batch_size": 20}

    def fit(self, problem: Problem) -> Debiased:
        train = self.training_data(problem)
        model = PublishedRemoval(
            self.lam,
            self.sigma,
            self.epsilon,
            self.delta,
            max_norm=self.max_norm,
            generator=torch.Generator().manual_seed(problem.seed),
        ).fit(train.x, train.y, n_classes=problem.n_classes)
        batches = choose(train, self.removals, problem).split(self.batch_size)
        steps = [model.remove(batch, retrain=True) for batch in batches]
        first_retraining = next((i for i, step in enumerate(steps) if step.retrained), len(steps))
        info = {
            "certified": False,
            "certified_reason": "the published procedure trains anew by a bound that depends on its own perturbation, "
            "so that its (ε, δ) does not hold: method=certified",
            "sigma": self.sigma,
            "budget_allowed": model.allowance,
            "budget_spent": model.spent,
            "removed_before_retraining": sum(step.removed for step in steps[:first_retraining]),
            "retrained": sum(step.retrained for step in steps),
            "cg_steps": sum(step.cg_steps for step in steps),
        }
        debiased = self._debiased(train, model.model, model.remaining, info)
        debiased.arrays["budget_spent"] = torch.tensor([step.spent for step in steps], dtype=torch.float64)
        return debiased


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
