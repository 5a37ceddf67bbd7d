"""A linear classifier trained under a secret perturbation, the model that `removal` can make forget its samples."""

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from efface.unlearning.certified.mechanism import allowed_shift, gaussian
from efface.unlearning.certified.objective import (
    Link,
    LossPoint,
    PerturbedLoss,
    kept_factor,
    minimise,
    spectral_bound,
)
from efface.unlearning.certified.rows import Rows, augmented, require_samples

Budget = Literal["measured", "bound"]


@dataclass(frozen=True)
class Fit:
    """What changes with every removal. All but θ is for the owner of the data alone: B is what hides the residual."""

    theta: Tensor
    perturbation: Tensor
    """B. After loading a stand-in, under which the residual then was 0."""
    gradient: Tensor
    """∇L_B(θ) on the samples left; in `bound` not kept up to date."""
    unknown: float
    """How far the perturbation may be from B: 0, or after loading what had been spent."""
    spent: float


@dataclass(frozen=True)
class DebugState:
    """What a `PerturbedClassifier` keeps to itself."""

    perturbation: Tensor
    """B `[p, k]`; after loading a stand-in, see `Fit`."""
    gradient: Tensor
    """∇L_B(θ) `[p, k]` as it is kept up to date."""
    rows: Tensor
    """`[n, p]`: the memory of the training samples, those removed among them, which are overwritten."""


class PerturbedClassifier:
    """Options, training and predictions of `CertifiedLogisticRegression`, which documents them."""

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
        self._fitted: Fit | None = None
        self._data: Rows | None = None
        self._remaining = torch.empty(0, dtype=torch.int64)
        self._factor = kept_factor(1, 1)
        self._norm = math.inf
        """A bound of ‖X‖, in `bound`."""

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
        """Return `[n, K]` of x `[n, d]`, float64. Of two logistic classes half the log-odds, with both signs."""
        logits = augmented(x, self.max_norm) @ self._fit.theta
        return torch.cat([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits

    def predict(self, x: Tensor) -> Tensor:
        """Return labels `[n]`."""
        return self.logits(x).argmax(1)

    def predict_proba(self, x: Tensor) -> Tensor:
        """Return `[n, K]`. One against the rest: each class's own probability, scaled to a sum of 1."""
        logits = self.logits(x)
        if self.loss == "softmax" or self.n_classes == 2:
            return logits.softmax(1)
        p = logits.sigmoid()
        return p / p.sum(1, keepdim=True)

    def head(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """Return the same logits as a linear layer on `into_unit_ball(x, max_norm)`."""
        theta = self._fit.theta / math.sqrt(2)
        theta = torch.cat([-theta / 2, theta / 2], 1) if theta.shape[1] == 1 else theta
        head = nn.Linear(theta.shape[0] - 1, theta.shape[1], dtype=dtype, device=theta.device)
        with torch.no_grad():
            head.weight.copy_(theta[:-1].mT)
            head.bias.copy_(theta[-1])
        return head.requires_grad_(False)

    @property
    def remaining(self) -> Tensor:
        """Numbers of the training samples that have not been removed, as they were counted in `fit`; sorted."""
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

    def debug_state(self) -> DebugState:
        """Return what the model knows beside its weights: for tests and audits.

        Whoever has it can compute what is left of removed samples: it must never be released.
        """
        return DebugState(self._fit.perturbation, self._fit.gradient, self._rows.x)

    def _train(self, data: Rows, n_classes: int, n: int) -> LossPoint:
        """Return the minimum on the first n rows under a fresh perturbation."""
        k = 1 if self.loss == "logistic" and n_classes == 2 else n_classes
        perturbation = self.sigma * gaussian((data.x.shape[1], k), self._generator).to(data.x)
        start = LossPoint(self._loss(data, n, perturbation), torch.zeros_like(perturbation))
        point, minimum, _ = minimise(start, kept_factor(*perturbation.shape), tol=self.tol)
        if not minimum.converged:
            raise ArithmeticError(
                f"training came to a gradient norm of {minimum.grad_norm:.3g}, not to tol = {self.tol:g}: "
                "raise tol, or lam"
            )
        return point

    def _adopt(self, trained: LossPoint, data: Rows, n_classes: int, n: int) -> None:
        """Become the model just trained on the first n rows."""
        norm = spectral_bound(data.x[:n]) if self.budget == "bound" else math.inf
        data.logits = trained.logits
        data.forget(n)
        self._data, self._norm, self.n_classes, self.needs_retraining = data, norm, n_classes, False
        spent = float(trained.gradient.norm()) + self.tol
        self._fitted = Fit(trained.theta, trained.loss.perturbation, trained.gradient, 0.0, spent)
        self._factor = kept_factor(*trained.theta.shape)

    def _loss(self, data: Rows, n: int, perturbation: Tensor) -> PerturbedLoss:
        """Return L_B on the first n rows."""
        y, k = data.y[:n], perturbation.shape[1]
        targets = y[:, None] if k == 1 else nn.functional.one_hot(y, k)
        return PerturbedLoss(
            x=data.x[:n], targets=targets.to(data.x.dtype), l2=self.lam * n, perturbation=perturbation, link=self.loss
        )

    @property
    def _fit(self) -> Fit:
        if self._fitted is None:
            raise RuntimeError("the model has not been fitted: call fit(x, y) first")
        return self._fitted

    @property
    def _rows(self) -> Rows:
        if self._fit and self._data is None:
            raise RuntimeError("the model was loaded without its samples and can only predict: load(path, x, y)")
        assert self._data is not None
        return self._data
