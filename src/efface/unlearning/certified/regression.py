"""The linear classifier that can forget: how it is trained, and how its weights are used."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from efface.unlearning.certified.objective import Link, LossPoint, PenalisedLoss, kept_factor, minimise
from efface.unlearning.certified.rows import Rows, augmented, require_samples


def require_positive(**values: float) -> None:
    """Check that options are positive and finite.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}, but must be positive and finite")


@dataclass(frozen=True, kw_only=True)
class Regression:
    """What is minimised over the rows (x, 1)/√2, and how far.

    Args:
        lam: λ > 0, the penalty per sample.
        loss: `logistic` for two classes, or one against the rest; `softmax`.
        max_norm: rows x are divided by the larger of their length and this, >= 0.
        tol: the gradient norm of the sum over samples that a minimisation has to reach, > 0.
    """

    lam: float
    loss: Link
    max_norm: float
    tol: float

    def __post_init__(self) -> None:
        require_positive(lam=self.lam)
        if self.loss not in ("logistic", "softmax"):
            raise ValueError(f"loss is {self.loss!r}, but must be 'logistic' or 'softmax'")
        if not 0 <= self.max_norm < math.inf:
            raise ValueError(f"max_norm is {self.max_norm}, but must be >= 0 and finite")

    def rows(self, x: Tensor, y: Tensor, n_classes: int | None) -> tuple[Rows, int]:
        """Return the samples x `[n, d]`, y `[n]` as rows numbered 0 … n − 1, and the number of classes K.

        Raises:
            ValueError: shapes do not fit, x is not finite, a label is out of range.
        """
        y = require_samples(x, y)
        k = max(int(y.max()) + 1, 2) if n_classes is None else n_classes
        if k < 2 or int(y.min()) < 0 or int(y.max()) >= k:
            raise ValueError(
                f"y has labels from {int(y.min())} to {int(y.max())}, but they must lie in 0 … K − 1, K = {k} >= 2"
            )
        ids = torch.arange(len(y), device=y.device)
        return Rows(x, y, ids=ids, total=len(y), max_norm=self.max_norm), k

    def shape(self, data: Rows, n_classes: int) -> tuple[int, int]:
        """Return the shape `[p, k]` of θ: one column where two classes share one logit."""
        return data.x.shape[1], 1 if self.loss == "logistic" and n_classes == 2 else n_classes

    def objective(self, data: Rows, n: int, k: int, perturbation: Tensor | None = None) -> PenalisedLoss:
        """Return L on the first n rows, for θ with k columns."""
        y = data.y[:n]
        targets = y[:, None] if k == 1 else nn.functional.one_hot(y, k)
        return PenalisedLoss(
            x=data.x[:n], targets=targets.to(data.x.dtype), l2=self.lam * n, perturbation=perturbation, link=self.loss
        )

    def train(self, data: Rows, n: int, n_classes: int, perturbation: Tensor | None = None) -> LossPoint:
        """Return the minimum on the first n rows, to a gradient norm of `tol`, from θ = 0.

        Raises:
            ArithmeticError: `tol` cannot be reached in float64.
        """
        shape = self.shape(data, n_classes)
        start = LossPoint(self.objective(data, n, shape[1], perturbation), data.x.new_zeros(shape))
        point, minimum, _ = minimise(start, kept_factor(*shape), tol=self.tol)
        self.require_reached(minimum.grad_norm)
        return point

    def require_reached(self, grad_norm: float) -> None:
        """Check that a minimisation has reached `tol`.

        Raises:
            ArithmeticError: it has not.
        """
        if not grad_norm <= self.tol:
            raise ArithmeticError(
                f"training came to a gradient norm of {grad_norm:.3g}, not to {self.tol:g}, which float64 cannot "
                "resolve here: ask for a larger one, or raise lam"
            )


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """Weights and what is computed from them."""

    theta: Tensor
    """`[p, k]` float64 on rows (x, 1)/√2, p = d + 1; k = 1 for two logistic classes, else K."""
    n_classes: int
    """K"""
    loss: Link
    max_norm: float
    """Rows x are divided by the larger of their length and this."""

    def logits(self, x: Tensor) -> Tensor:
        """Return `[n, K]` of x `[n, d]`, float64. Of two logistic classes half the log-odds, with both signs."""
        logits = augmented(x, self.max_norm) @ self.theta
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
        theta = self.theta / math.sqrt(2)
        theta = torch.cat([-theta / 2, theta / 2], 1) if theta.shape[1] == 1 else theta
        head = nn.Linear(theta.shape[0] - 1, theta.shape[1], dtype=dtype, device=theta.device)
        with torch.no_grad():
            head.weight.copy_(theta[:-1].mT)
            head.bias.copy_(theta[-1])
        return head.requires_grad_(False)
