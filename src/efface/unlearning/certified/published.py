"""The removal procedure of Guo et al. (ICML 2020, arXiv 1911.03030) as published, for comparison.

It minimises, in the notation of `removal`,

    L_B(θ; D) = Σ_{i in D} (ℓ(θ; x̃_i, y_i) + λ/2 ‖θ‖²) + ⟨B, θ⟩,        B ~ N(0, σ² I), secret,

and removes samples by one Newton step. What the weights may still know of them is in the gradient residual
u = ∇L_B(θ; D′): θ is the exact minimum for B − u. A bound of ‖u‖ is added up over removals, and the model is trained
anew, under a fresh B, when σ · allowed_shift(ε, δ) is spent (theorem 3).

**This is no certificate.** The theorem holds for a u that does not depend on B. The bound, and with it the decision to
train anew, depends on θ and so on B: with q the probability of that decision, δ is at least q − e^ε q². Where 0.01 was
claimed, 0.08 to 0.11 was measured (n = 40, d = 1, three removals). Where the measured ‖u‖ takes the place of the bound,
0.094 was. `removal.CertifiedLogisticRegression` puts the noise after the deterministic part instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from efface.unlearning.certified.mechanism import allowed_shift, gaussian
from efface.unlearning.certified.objective import (
    LossPoint,
    PenalisedLoss,
    kept_factor,
    solve,
    solve_error,
    spectral_bound,
)
from efface.unlearning.certified.regression import LinearModel, Regression, require_positive
from efface.unlearning.certified.rows import Rows

RTOL = 1e-6
"""How exactly Newton steps are solved for: the errors of all add up."""

_GAMMA = 0.25
"""The published Lipschitz constant of the logistic loss's second derivative. (The least one is 1/(6√3) = 0.096.)"""


class BudgetSpentError(RuntimeError):
    """A removal would leave more of the removed samples than the budget allows; the model is as it was."""


@dataclass(frozen=True)
class PublishedStep:
    """What one call of `PublishedRemoval.remove` did."""

    removed: int
    retrained: bool
    """The budget was spent, and `retrain=True`: trained anew, with a fresh perturbation."""
    spent: float
    """The bound of ‖u‖ after it."""
    cg_steps: int


@dataclass(frozen=True)
class _State:
    """What `PublishedRemoval` knows once it is fitted."""

    data: Rows
    theta: Tensor
    perturbation: Tensor
    n_classes: int
    norm: float
    """A bound of ‖X‖ from above."""
    spent: float


class PublishedRemoval:
    """The published procedure, with the accumulated bound of corollary 1. It certifies nothing: see the module.

    Args:
        lam: λ > 0, the penalty per sample.
        sigma: standard deviation of the perturbation, > 0. The budget is proportional to it; so is the harm that it
            does to accuracy, which is small while σ sqrt(p) is small beside λ n ‖θ‖.
        epsilon, delta: ε > 0 and δ in (0, 1) of the theorem, which fix the budget; by the exact Gaussian mechanism,
            where the paper's constant allows about a third less.
        max_norm: see `CertifiedLogisticRegression`.
        tol: gradient norm at which training has to end, > 0; far below the budget.
        generator: a seeded generator for the perturbations. None: the operating system's entropy.

    The loss is logistic, one against the rest with one joint norm for three classes or more. What is spent on a removal
    is γ ‖X‖ ‖v‖ ‖Xv‖ for its Newton step v, with ‖X‖ bounded from above, plus ‖Hv − Δ‖, without which it would be no
    bound. It is tens to thousands of times larger than ‖u‖. For one thread at a time.

    Cost of a removal: 4npk operations for each step of conjugate gradients; p = d + 1. Memory: 2np values of float64.
    """

    def __init__(
        self,
        lam: float,
        sigma: float,
        epsilon: float,
        delta: float,
        *,
        max_norm: float = 0.0,
        tol: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        require_positive(sigma=sigma, tol=tol)
        self._regression = Regression(lam=lam, loss="logistic", max_norm=max_norm, tol=tol)
        self.lam, self.sigma, self.max_norm, self.tol = lam, sigma, max_norm, tol
        self.allowance = sigma * allowed_shift(epsilon, delta)
        """The budget: the largest bound of ‖u‖ at which a model is not trained anew."""
        if 2 * tol > self.allowance:
            raise ValueError(
                f"tol is {tol:g}, but sigma, epsilon and delta allow a gradient residual of {self.allowance:.3g}: "
                "lower tol well below it, or raise sigma"
            )
        self._generator = generator
        self._fitted: _State | None = None
        self._factor = kept_factor(1, 1)

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, *, n_classes: int | None = None) -> Self:
        """Train from scratch with a fresh perturbation. See `CertifiedLogisticRegression.fit`."""
        data, k = self._regression.rows(x, y, n_classes)
        self._adopt(self._trained(data, data.n, k))
        return self

    @torch.no_grad()
    def remove(self, indices: Sequence[int] | Tensor, *, retrain: bool = False) -> PublishedStep:
        """Take the Newton step that removes training samples.

        Args:
            indices: their numbers, as they were counted in `fit`.
            retrain: where the budget does not suffice, train anew on the rest with a fresh perturbation.

        Raises:
            IndexError: a number is out of range.
            ValueError: a number occurs twice, or has been removed before, or nobody would be left.
            BudgetSpentError: the budget does not suffice, and `retrain` is false.

        After an error the model is as it was.
        """
        state, data = self._state, self._state.data
        slots = data.slots(indices)
        if len(slots) == 0:
            return PublishedStep(0, False, self.spent, 0)
        n = data.park(slots)
        stepped, cg_steps = self._step(state, n)
        retrained = not stepped.spent <= self.allowance
        if retrained and not retrain:
            raise BudgetSpentError(
                f"removing {len(slots)} samples would bring the bound to {stepped.spent:.3g}, but the budget is "
                f"{self.allowance:.3g}: retrain=True trains anew without them, under a fresh perturbation"
            )
        if retrained:
            self._adopt(self._trained(data, n, state.n_classes))
        else:
            self._fitted = stepped
        data.forget(n)
        return PublishedStep(len(slots), retrained, self.spent, cg_steps)

    @property
    def model(self) -> LinearModel:
        """The present weights, for predictions."""
        state = self._state
        return LinearModel(theta=state.theta, n_classes=state.n_classes, loss="logistic", max_norm=self.max_norm)

    @property
    def remaining(self) -> Tensor:
        """Numbers of the training samples that have not been removed, as they were counted in `fit`; sorted."""
        data = self._state.data
        return data.ids[: data.n].sort().values

    @property
    def spent(self) -> float:
        """The bound of ‖u‖ now, with what re-training may leave."""
        return self._state.spent

    @property
    def perturbation(self) -> Tensor:
        """B `[p, k]`: the secret."""
        return self._state.perturbation

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """Measure ‖u‖ itself. 4npk operations."""
        return float(self._point(self._state, self._state.data.n).gradient.norm())

    def _trained(self, data: Rows, n: int, n_classes: int) -> _State:
        """Train on the first n rows under a fresh perturbation."""
        perturbation = self.sigma * gaussian(self._regression.shape(data, n_classes), self._generator).to(data.x)
        point = self._regression.train(data, n, n_classes, perturbation)
        spent = float(point.gradient.norm()) + self.tol
        return _State(data, point.theta, perturbation, n_classes, spectral_bound(data.x[:n]), spent)

    def _adopt(self, trained: _State) -> None:
        self._fitted, self._factor = trained, kept_factor(*trained.theta.shape)

    def _step(self, state: _State, n: int) -> tuple[_State, int]:
        """Take the Newton step H⁻¹Δ for the rows from n on; return the state after it, and the products taken."""
        start, leaving = self._point(state, n), self._leaving(state, n)
        solved = solve(start, leaving, self._factor, rtol=RTOL)
        step = solved.solution
        per_column = _GAMMA * state.norm * step.norm(dim=0) * (start.loss.x @ step).norm(dim=0)
        spent = state.spent + float(per_column.norm()) + solve_error(start, leaving, step)
        after = _State(state.data, state.theta + step, state.perturbation, state.n_classes, state.norm, spent)
        return after, solved.iterations

    def _leaving(self, state: _State, n: int) -> Tensor:
        """Return Δ: the part of ∇L that goes with the rows from n on, `[p, k]`."""
        loss, rows = self._objective(state, state.data.n), slice(n, state.data.n)
        x = loss.x[rows]
        residual = loss.probabilities(x @ state.theta) - loss.targets[rows]
        return x.mT @ residual + (state.data.n - n) * self.lam * state.theta

    def _point(self, state: _State, n: int) -> LossPoint:
        return LossPoint(self._objective(state, n), state.theta)

    def _objective(self, state: _State, n: int) -> PenalisedLoss:
        """Return L_B on the first n rows."""
        return self._regression.objective(state.data, n, state.theta.shape[1], state.perturbation)

    @property
    def _state(self) -> _State:
        if self._fitted is None:
            raise RuntimeError("the model has not been fitted: call fit(x, y) first")
        return self._fitted
