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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from efface import tensorfiles
from efface.unlearning.certified.mechanism import allowed_shift, gaussian
from efface.unlearning.certified.objective import (
    Link,
    Minimum,
    PerturbedLoss,
    Preconditioner,
    minimise,
    solve,
    solve_error,
    spectral_bound,
)
from efface.unlearning.certified.rows import Rows, augmented, require_samples

Budget = Literal["measured", "bound"]

_GAMMA = 0.25
"""The published Lipschitz constant of the logistic loss's second derivative. (The least one is 1/(6√3) = 0.096.)"""
_MEASURED_RTOL = 1e-3
"""How exactly Newton steps are solved for where the next one mends what the last one left."""
_BOUND_RTOL = 1e-6
"""And where what is left is added up."""
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
    """Of the budget, after it."""
    newton_steps: int
    cg_steps: int


@dataclass(frozen=True)
class _Fit:
    """What changes with every removal."""

    theta: Tensor
    perturbation: Tensor
    """B. After loading a stand-in, under which the residual then was 0."""
    gradient: Tensor
    """∇L_B(θ) on the samples left; in `bound` not kept up to date."""
    unknown: float
    """How far the perturbation may be from B: 0, or after loading what had been spent."""
    spent: float


class CertifiedLogisticRegression:
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

    def __init__(
        self,
        lam: float,
        sigma: float,
        epsilon: float,
        delta: float,
        *,
        budget: Budget = "measured",
        loss: Link = "logistic",
        max_norm: float = 0.0,
        tol: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value in {"lam": lam, "sigma": sigma, "tol": tol}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, but must be positive and finite")
        if budget not in ("measured", "bound"):
            raise ValueError(f"budget is {budget!r}, but must be 'measured' or 'bound'")
        if loss not in ("logistic", "softmax"):
            raise ValueError(f"loss is {loss!r}, but must be 'logistic' or 'softmax'")
        if loss == "softmax" and budget == "bound":
            raise ValueError("budget='bound' is known for loss='logistic' only: take budget='measured' for softmax")
        if not 0 <= max_norm < math.inf:
            raise ValueError(f"max_norm is {max_norm}, but must be >= 0 and finite")
        self.lam, self.sigma, self.epsilon, self.delta = lam, sigma, epsilon, delta
        self.budget: Budget = budget
        self.loss: Link = loss
        self.max_norm, self.tol = max_norm, tol
        self.allowance = sigma * allowed_shift(epsilon, delta)
        """The budget: the largest gradient residual that σ hides."""
        if 2 * tol > self.allowance:
            raise ValueError(
                f"tol is {tol:g}, but sigma, epsilon and delta allow a gradient residual of {self.allowance:.3g}: "
                "lower tol well below it, or raise sigma"
            )
        self.needs_retraining = False
        """A removal has been refused since the last training, as the budget did not suffice for it."""
        self.n_classes = 0
        self._generator = generator
        self._fitted: _Fit | None = None
        self._data: Rows | None = None
        self._remaining = torch.empty(0, dtype=torch.int64)
        self._preconditioner = Preconditioner()
        self._norm = math.inf
        """A bound of ‖X‖, in `bound`."""

    # Fitting and predicting.

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, *, n_classes: int | None = None) -> Self:
        """Train from scratch with a fresh perturbation.

        Args:
            x: `[n, d]`; copied to float64.
            y: labels `[n]` in 0 … K − 1.
            n_classes: K; the largest label plus one if None, at least 2. Say it where removed samples may be the only
                ones of a class, or the number of outputs tells of them.

        Raises:
            ValueError: shapes do not fit, x is not finite, a label is out of range.
            ArithmeticError: `tol` cannot be reached in float64.
        """
        y = require_samples(x, y)
        k = max(int(y.max()) + 1, 2) if n_classes is None else n_classes
        if k < 2 or int(y.min()) < 0 or int(y.max()) >= k:
            raise ValueError(
                f"y has labels from {int(y.min())} to {int(y.max())}, but they must lie in 0 … K − 1, K = {k} >= 2"
            )
        ids = torch.arange(len(y), device=y.device)
        data = Rows(x, y, ids=ids, total=len(y), max_norm=self.max_norm)
        self._adopt(self._train(data, k, data.n), data, k, data.n)
        return self

    def logits(self, x: Tensor) -> Tensor:
        """`[n, K]` of x `[n, d]`, float64. Of two logistic classes half the log-odds, with both signs."""
        logits = augmented(x, self.max_norm) @ self._fit.theta
        return torch.cat([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits

    def predict(self, x: Tensor) -> Tensor:
        """Labels `[n]`."""
        return self.logits(x).argmax(1)

    def predict_proba(self, x: Tensor) -> Tensor:
        """`[n, K]`. One against the rest: each class's own probability, scaled to a sum of 1."""
        logits = self.logits(x)
        if self.loss == "softmax" or self.n_classes == 2:
            return logits.softmax(1)
        p = logits.sigmoid()
        return p / p.sum(1, keepdim=True)

    def head(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """The same logits as a linear layer on `into_unit_ball(x, max_norm)`."""
        theta = self._fit.theta / math.sqrt(2)
        theta = torch.cat([-theta / 2, theta / 2], 1) if theta.shape[1] == 1 else theta
        head = nn.Linear(theta.shape[0] - 1, theta.shape[1], dtype=dtype, device=theta.device)
        with torch.no_grad():
            head.weight.copy_(theta[:-1].mT)
            head.bias.copy_(theta[-1])
        return head.requires_grad_(False)

    # Removing.

    @property
    def remaining(self) -> Tensor:
        """Numbers of the training samples that are left, as they were counted in `fit`; sorted."""
        if self._data is not None:
            return self._data.ids[: self._data.n].sort().values
        return self._remaining

    @property
    def theta(self) -> Tensor:
        """θ `[p, k]`: the weights that the certificate is for, on rows (x, 1)/√2."""
        return self._fit.theta

    @property
    def spent(self) -> float:
        """What is held against the budget now, with what re-training may leave."""
        return self._fit.spent

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """‖u‖, measured anew; after loading an upper bound of it. For the owner of the data alone. 4npk operations."""
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
        found, spent = (self._published_step if self.budget == "bound" else self._newton_steps)(data, n)
        retrained = not spent <= self.allowance
        if not retrained:
            fit = self._fit
            self._fitted = _Fit(found.theta, fit.perturbation, found.gradient, fit.unknown, spent)
            data.logits[:n] = found.logits
            data.forget(n)
        elif retrain:
            self._adopt(self._train(data, self.n_classes, n), data, self.n_classes, n)
        else:
            self.needs_retraining = True
            raise BudgetSpentError(
                f"removing {len(slots)} samples would bring the {self.budget} residual to {spent:.3g}, but the budget "
                f"is {self.allowance:.3g}: retrain=True trains anew without them, under a fresh perturbation"
            )
        return Removal(len(slots), retrained, self.spent, found.newton_steps, found.cg_steps)

    @torch.no_grad()
    def retrain(self) -> None:
        """Train anew on the samples that are left, under a fresh perturbation and with the whole budget."""
        data = self._rows
        self._adopt(self._train(data, self.n_classes, data.n), data, self.n_classes, data.n)

    def _leaving(self, data: Rows, n: int) -> Tensor:
        """Δ: the part of ∇L that goes with the rows from n on, `[p, k]`."""
        loss, gone = self._loss(data, data.n, self._fit.perturbation), slice(n, data.n)
        residual = loss.probabilities(data.logits[gone]) - loss.targets[gone]
        return loss.x[gone].mT @ residual + (data.n - n) * self.lam * self._fit.theta

    def _published_step(self, data: Rows, n: int) -> tuple[Minimum, float]:
        """The Newton step H⁻¹Δ, and the bound of corollary 1 after it."""
        fit, leaving = self._fit, self._leaving(data, n)
        loss = self._loss(data, n, fit.perturbation)
        probabilities = loss.probabilities(data.logits[:n])
        found = solve(loss, probabilities, leaving, self._preconditioner, rtol=_BOUND_RTOL)
        per_column = _GAMMA * self._norm * found.step.norm(dim=0) * found.logits.norm(dim=0)
        spent = fit.spent + float(per_column.norm()) + solve_error(loss, probabilities, leaving, found)
        theta = fit.theta + found.step
        return Minimum(theta, loss.x @ theta, fit.gradient, 1, found.iterations), spent

    def _newton_steps(self, data: Rows, n: int) -> tuple[Minimum, float]:
        """Newton steps, one if it suffices, and the residual that is measured after them."""
        fit = self._fit
        known = fit.unknown + self.tol
        found = minimise(
            self._loss(data, n, fit.perturbation), fit.theta, self._preconditioner, tol=self.allowance - known,
            logits=data.logits[:n], gradient=fit.gradient - self._leaving(data, n), min_steps=1,
            max_steps=_NEWTON_STEPS, rtol=_MEASURED_RTOL,
        )  # fmt: skip
        return found, found.grad_norm + known

    def _train(self, data: Rows, n_classes: int, n: int) -> tuple[Minimum, Tensor]:
        """The minimum on the first n rows under a fresh perturbation, and that perturbation."""
        k = 1 if self.loss == "logistic" and n_classes == 2 else n_classes
        perturbation = self.sigma * gaussian((data.x.shape[1], k), self._generator).to(data.x)
        found = minimise(
            self._loss(data, n, perturbation), torch.zeros_like(perturbation), Preconditioner(), tol=self.tol
        )
        if not found.grad_norm <= self.tol:
            raise ArithmeticError(
                f"training came to a gradient norm of {found.grad_norm:.3g}, not to tol = {self.tol:g}: "
                "raise tol, or lam"
            )
        return found, perturbation

    def _adopt(self, trained: tuple[Minimum, Tensor], data: Rows, n_classes: int, n: int) -> None:
        """Become the model just trained on the first n rows."""
        found, perturbation = trained
        norm = spectral_bound(data.x[:n]) if self.budget == "bound" else math.inf
        data.logits = found.logits
        data.forget(n)
        self._data, self._norm, self.n_classes, self.needs_retraining = data, norm, n_classes, False
        self._fitted = _Fit(found.theta, perturbation, found.gradient, 0.0, found.grad_norm + self.tol)
        self._preconditioner = Preconditioner()

    def _loss(self, data: Rows, n: int, perturbation: Tensor) -> PerturbedLoss:
        """L_B on the first n rows."""
        y, k = data.y[:n], perturbation.shape[1]
        targets = y[:, None] if k == 1 else nn.functional.one_hot(y, k)
        return PerturbedLoss(
            x=data.x[:n], targets=targets.to(data.x.dtype), l2=self.lam * n, perturbation=perturbation, link=self.loss
        )

    @property
    def _fit(self) -> _Fit:
        if self._fitted is None:
            raise RuntimeError("the model has not been fitted: call fit(x, y) first")
        return self._fitted

    @property
    def _rows(self) -> Rows:
        if self._fit and self._data is None:
            raise RuntimeError("the model was loaded without its samples and can only predict: load(path, x, y)")
        assert self._data is not None
        return self._data

    # Keeping.

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
        tensors, told = tensorfiles.read(path, kind=cls.__name__)
        theta, ids = tensors["theta"], tensors["remaining"]
        model = cls(**told["options"], generator=generator)
        model.n_classes, model.needs_retraining = told["n_classes"], told["needs_retraining"]
        model._remaining = ids
        zero, unknown = torch.zeros_like(theta), told["spent"] - model.tol
        model._fitted = _Fit(theta, zero, zero, unknown, told["spent"])
        if x is None or y is None:
            return model
        y = require_samples(x, y)
        if len(y) != len(ids):
            raise ValueError(
                f"x and y hold {len(y)} samples, but {path} has {len(ids)} left: give those of `remaining`"
            )
        theta, zero = theta.to(x.device), zero.to(x.device)
        data = Rows(x, y, ids=ids.to(x.device), total=told["total"], max_norm=model.max_norm)
        if data.digest != told["digest"]:
            raise ValueError(f"x and y are not the samples that {path} has left: give those of `remaining`, in order")
        loss, data.logits = model._loss(data, data.n, zero), data.x @ theta
        # It differs from B by the true residual, which is no longer than what had been spent.
        stand_in = -loss.gradient(theta, data.logits)
        model._fitted = _Fit(theta, stand_in, zero, unknown, told["spent"])
        model._data = data
        model._norm = spectral_bound(data.x) if model.budget == "bound" else math.inf
        return model
