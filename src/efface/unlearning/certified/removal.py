"""Certified removal of training samples from a linear classifier (Guo et al., ICML 2020, arXiv 1911.03030).

The classifier minimises, over the weights θ of rows x̃ = (x, 1)/√2 with ‖x‖ <= 1,

    L_B(θ; D) = Σ_{i in D} (ℓ(θ; x̃_i, y_i) + λ/2 ‖θ‖²) + ⟨B, θ⟩,        B ~ N(0, σ² I), secret,

so that the intercept is perturbed and penalised too. What it may still know of a removed sample is in the gradient
residual u = ∇L_B(θ; D′) on the remaining data D′: θ is the exact minimum for the perturbation B − u. Where ‖u‖ <= r,
with r fixed beforehand, σ hides the difference from a model trained without the sample: densities are within e^±ε, but
for a probability δ, if r / σ is at most `allowed_shift(ε, δ)` (theorem 3; above ε = 1 the analytic Gaussian mechanism).
σ · allowed_shift(ε, δ) is the budget. Re-training too stops at a gradient norm, `tol`, which is added to ‖u‖.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from efface import tensorfiles
from efface.unlearning.certified.classifier import Budget as Budget
from efface.unlearning.certified.classifier import Fit, PerturbedClassifier
from efface.unlearning.certified.objective import (
    LossPoint,
    kept_factor,
    minimise,
    solve,
    solve_error,
    spectral_bound,
)
from efface.unlearning.certified.rows import Rows, require_samples

BOUND_RTOL = 1e-6
"""How exactly Newton steps are solved for in `bound`, where the errors of all add up."""
MEASURED_RTOL = 1e-3
"""And in `measured`, where the next step corrects the errors of the last one."""

_GAMMA = 0.25
"""The published Lipschitz constant of the logistic loss's second derivative. (The least one is 1/(6√3) = 0.096.)"""
_NEWTON_STEPS = 10
_OPTIONS = ("lam", "sigma", "epsilon", "delta", "budget", "loss", "max_norm", "tol")


class BudgetSpentError(RuntimeError):
    """A removal would leave more of the removed samples than the budget hides; the model is as it was."""


@dataclass(frozen=True)
class Removal:
    """What one call of `remove` did."""

    removed: int
    retrained: bool
    """The budget was spent, and `retrain=True`: trained anew, with a fresh perturbation."""
    spent: float
    """What is held against the budget after it, in units of ‖u‖."""
    newton_steps: int
    cg_steps: int


@dataclass(frozen=True)
class _Step:
    """Where a removal would lead, and what would then be spent."""

    point: LossPoint
    spent: float
    newton_steps: int
    cg_steps: int


class CertifiedLogisticRegression(PerturbedClassifier):
    """A linear classifier that can forget training samples, with an (ε, δ) certificate.

    Args:
        lam: λ > 0, per sample.
        sigma: standard deviation of the perturbation, > 0. The budget is proportional to it; so is the harm that it
            does to accuracy, which is small while σ sqrt(p) is small beside λ n ‖θ‖.
        epsilon, delta: the certificate's ε > 0 and δ in (0, 1).
        budget: what is held against the budget.

            `measured`: ‖u‖ itself, computed exactly at the current weights on the remaining data, in O(np). A removal
            is one Newton step on the whole gradient, so that residuals do not add up; if it leaves too much, more steps
            follow. It guarantees that a model is released only while it meets the theorem's condition, whatever steps
            led to it.

            `bound`: the published sum over removals of γ ‖X‖ ‖v‖ ‖Xv‖, v the Newton step of the removal (corollary 1),
            plus the training residual and every step's ‖Hv − Δ‖, without which it would be no bound. It guarantees the
            same through an upper bound that needs no knowledge of B; it is tens to thousands of times larger than ‖u‖,
            and grows with each removal. Spectral norms are bounded from above.
        loss: `logistic` for two classes, or one against the rest with one joint norm; `softmax` (`measured` only).
        max_norm: rows are divided by the larger of their length and this, so that ‖x‖ <= 1. 0 scales every row to
            length 1, as published. A number keeps relative lengths below it; choose it without a look at the data, or
            the scale of the rest remembers the sample that was the longest.
        tol: gradient norm (of a sum over samples) at which training has to end; far below the budget.
        generator: a seeded generator for the perturbations, for experiments that can be repeated: they are then as
            secret as the seed. None: the operating system's entropy.

    The certificate is for the weights after each removal, and for requests that were fixed before training: whoever
    chooses what to remove with a look at the weights knows something of B. `spent` and `gradient_norm()` depend on the
    data and on B, and are for the owner of the data alone. Rounding in float64 is not accounted for.

    Cost of a removal: 4npk operations for each of 2 to 10 steps of conjugate gradients, whatever the number of samples
    removed; now and then np² + p³ for a new preconditioner. p = d + 1; k is 1 for two logistic classes, else K.
    Memory: n(p + 3k) + 2p² values of float64. A removed row is overwritten with zeros.
    """

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """Measure ‖u‖ anew; after loading an upper bound of it. For the owner of the data alone. 4npk operations."""
        data, fit = self._rows, self._fit
        loss = self._loss(data, data.n, fit.perturbation)
        return fit.unknown + float(loss.gradient(fit.theta, loss.x @ fit.theta).norm())

    @torch.no_grad()
    def remove(self, indices: Sequence[int] | Tensor, *, retrain: bool = False) -> Removal:
        """Forget training samples; a batch costs about as much as a single one.

        Args:
            indices: their numbers, as they were counted in `fit`.
            retrain: where the budget does not suffice, train anew on the rest with a fresh perturbation.

        Raises:
            IndexError: a number is out of range.
            ValueError: a number occurs twice, or has been removed before, or nobody would be left.
            BudgetSpentError: the budget does not suffice, and `retrain` is false.

        After an error the model is as it was.
        """
        data = self._rows
        slots = data.slots(indices)
        if len(slots) == 0:
            return Removal(0, False, self.spent, 0, 0)
        n = data.park(slots)
        step = (self._published_step if self.budget == "bound" else self._newton_steps)(data, n)
        spent, point = step.spent, step.point
        retrained = not spent <= self.allowance
        if not retrained:
            self._fitted = replace(self._fit, theta=point.theta, gradient=point.gradient, spent=spent)
            data.logits[:n] = point.logits
            data.forget(n)
        elif retrain:
            self._adopt(self._train(data, self.n_classes, n), data, self.n_classes, n)
        else:
            self.needs_retraining = True
            raise BudgetSpentError(
                f"removing {len(slots)} samples would bring the {self.budget} residual to {spent:.3g}, but the budget "
                f"is {self.allowance:.3g}: retrain=True trains anew without them, under a fresh perturbation"
            )
        return Removal(len(slots), retrained, self.spent, step.newton_steps, step.cg_steps)

    @torch.no_grad()
    def retrain(self) -> None:
        """Train anew on the samples that are left, under a fresh perturbation and with the whole budget."""
        data = self._rows
        self._adopt(self._train(data, self.n_classes, data.n), data, self.n_classes, data.n)

    def _leaving(self, data: Rows, n: int) -> Tensor:
        """Return Δ: the part of ∇L that goes with the rows from n on, `[p, k]`."""
        loss, rows = self._loss(data, data.n, self._fit.perturbation), slice(n, data.n)
        residual = loss.probabilities(data.logits[rows]) - loss.targets[rows]
        return loss.x[rows].mT @ residual + (data.n - n) * self.lam * self._fit.theta

    def _published_step(self, data: Rows, n: int) -> _Step:
        """Take the Newton step H⁻¹Δ; spent is the bound of corollary 1 after it."""
        fit, leaving = self._fit, self._leaving(data, n)
        start = LossPoint(self._loss(data, n, fit.perturbation), fit.theta, logits=data.logits[:n])
        solved = solve(start, leaving, self._factor, rtol=BOUND_RTOL)
        step = solved.solution
        per_column = _GAMMA * self._norm * step.norm(dim=0) * (start.loss.x @ step).norm(dim=0)
        spent = fit.spent + float(per_column.norm()) + solve_error(start, leaving, step)
        # Its gradient is not kept up to date: the bound needs none.
        point = LossPoint(start.loss, fit.theta + step, gradient=fit.gradient)
        return _Step(point, spent, newton_steps=1, cg_steps=solved.iterations)

    def _newton_steps(self, data: Rows, n: int) -> _Step:
        """Take Newton steps, one if it suffices; spent is the residual that is measured after them."""
        fit = self._fit
        known = fit.unknown + self.tol
        start = LossPoint(
            self._loss(data, n, fit.perturbation), fit.theta,
            logits=data.logits[:n], gradient=fit.gradient - self._leaving(data, n),
        )  # fmt: skip
        point, minimum, products = minimise(
            start, self._factor, tol=self.allowance - known, min_iter=1, max_iter=_NEWTON_STEPS, rtol=MEASURED_RTOL
        )
        return _Step(point, minimum.grad_norm + known, newton_steps=minimum.iterations, cg_steps=products)

    def save(self, path: str | Path) -> None:
        """Write weights, options, what is spent and the numbers of the samples left, to a safetensors file.

        Neither the data nor the perturbation nor the residual are in it: the perturbation is what hides the residual,
        and whoever has the data can compute each from the other.
        """
        tensors = {"theta": self._fit.theta, "remaining": self.remaining}
        state = {
            "n_classes": self.n_classes, "total": self._rows.total, "spent": self.spent,
            "needs_retraining": self.needs_retraining, "digest": self._rows.digest,
        }  # fmt: skip
        options = {name: getattr(self, name) for name in _OPTIONS}
        tensorfiles.write(path, tensors, kind=type(self).__name__, facts={"options": options, **state})

    @classmethod
    @torch.no_grad()
    def load(
        cls,
        path: str | Path,
        x: Tensor | None = None,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Read what `save` wrote.

        Args:
            path: the file.
            x, y: the training samples that are left, in the order of `remaining`: with them the model goes on removing,
                without them it can predict. As the perturbation is not in the file, what had been spent stays spent
                until the next re-training; what the gradient changes by from then on is known, and is added to it.
            generator: see the class.

        Raises:
            ValueError: the file is damaged, holds something else, or x and y are other samples.
        """
        tensors, facts = tensorfiles.read(path, kind=cls.__name__)
        theta, ids = tensors["theta"], tensors["remaining"]
        model = cls(**facts["options"], generator=generator)
        model.n_classes, model.needs_retraining = facts["n_classes"], facts["needs_retraining"]
        model._remaining = ids
        zero, unknown = torch.zeros_like(theta), facts["spent"] - model.tol
        model._fitted, model._factor = Fit(theta, zero, zero, unknown, facts["spent"]), kept_factor(*theta.shape)
        if x is None or y is None:
            return model
        y = require_samples(x, y)
        if len(y) != len(ids):
            raise ValueError(
                f"x and y hold {len(y)} samples, but {path} has {len(ids)} left: give those of `remaining`"
            )
        theta, zero = theta.to(x.device), zero.to(x.device)
        data = Rows(x, y, ids=ids.to(x.device), total=facts["total"], max_norm=model.max_norm)
        if data.digest != facts["digest"]:
            raise ValueError(f"x and y are not the samples that {path} has left: give those of `remaining`, in order")
        loss, data.logits = model._loss(data, data.n, zero), data.x @ theta
        # It differs from B by the true residual, which is no longer than what had been spent.
        stand_in = -loss.gradient(theta, data.logits)
        model._fitted = Fit(theta, stand_in, zero, unknown, facts["spent"])
        model._data = data
        model._norm = spectral_bound(data.x) if model.budget == "bound" else math.inf
        return model
