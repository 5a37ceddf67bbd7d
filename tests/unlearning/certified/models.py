"""Models that the tests of certified removal fit, and their gradient by definition."""

import math
from typing import Any

import torch
from torch import Tensor

from efface.unlearning.certified.objective import Link
from efface.unlearning.certified.published import PublishedRemoval
from efface.unlearning.certified.removal import CertifiedLogisticRegression

N, D, LAM = 400, 8, 1e-2
ROOMY: Any = {"epsilon": 1e6}
"""A budget that lasts, under a perturbation as small as ever."""


def samples(k: int = 2, n: int = N) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, D, generator=g)
    return x, (x @ torch.randn(D, k, generator=g) + torch.randn(n, k, generator=g)).argmax(1)


def unfitted(**options: Any) -> CertifiedLogisticRegression:
    """With repeatable noise."""
    return CertifiedLogisticRegression(
        **{"lam": LAM, "epsilon": 1.0, "delta": 1e-4, "generator": torch.Generator().manual_seed(2), **options}
    )


def model(k: int = 2, **options: Any) -> CertifiedLogisticRegression:
    """Fitted on the samples, with repeatable noise."""
    return unfitted(**options).fit(*samples(k), n_classes=k)


def published(k: int = 2, **options: Any) -> PublishedRemoval:
    """Fitted on the samples, with a repeatable perturbation."""
    defaults = {"lam": LAM, "sigma": 0.5, "epsilon": 1.0, "delta": 1e-4, "generator": torch.Generator().manual_seed(2)}
    return PublishedRemoval(**{**defaults, **options}).fit(*samples(k), n_classes=k)


def true_norm(
    theta: Tensor, k: int, remaining: Tensor, *, lam: float = LAM, loss: Link = "logistic", B: Tensor | None = None
) -> float:
    """‖∇L_B‖ on the remaining samples from the definition, by automatic differentiation."""
    x, y = samples(k)
    x, y = x[remaining].double(), y[remaining]
    x = torch.cat([x / x.norm(dim=1, keepdim=True), torch.ones(len(x), 1)], 1) / math.sqrt(2)
    theta = theta.clone().requires_grad_()
    logits = x @ theta
    if loss == "softmax":
        value = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
    else:
        targets = y[:, None] if k == 2 else torch.nn.functional.one_hot(y, k)
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.double(), reduction="sum")
    value = value + lam * len(x) / 2 * theta.square().sum() + (0 if B is None else (B * theta).sum())
    (gradient,) = torch.autograd.grad(value, theta)
    return float(gradient.norm())
