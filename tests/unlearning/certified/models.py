"""A model that the tests of certified removal fit, and its residual by definition."""

import math
from typing import Any

import torch
from torch import Tensor

from efface.unlearning.certified.objective import LossPoint, PerturbedLoss, kept_factor, minimise
from efface.unlearning.certified.removal import CertifiedLogisticRegression
from efface.unlearning.certified.rows import augmented

N, D = 400, 8
ROOMY: Any = {"epsilon": 1e6}
"""A budget that lasts, under a perturbation as small as ever."""


def samples(k: int = 2, n: int = N) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, D, generator=g)
    return x, (x @ torch.randn(D, k, generator=g) + torch.randn(n, k, generator=g)).argmax(1)


def model(k: int = 2, **options: Any) -> CertifiedLogisticRegression:
    """Fitted on the samples, with a repeatable perturbation."""
    given = {"lam": 1e-2, "sigma": 0.5, "epsilon": 1.0, "delta": 1e-4, "generator": torch.Generator().manual_seed(2)}
    return CertifiedLogisticRegression(**{**given, **options}).fit(*samples(k), n_classes=k)


def true_residual(model: CertifiedLogisticRegression, B: Tensor, k: int, remaining: Tensor) -> float:
    """‖∇L_B‖ from the definition, by automatic differentiation."""
    x, y = samples(k)
    x, y = x[remaining].double(), y[remaining]
    x = torch.cat([x / x.norm(dim=1, keepdim=True), torch.ones(len(x), 1)], 1) / math.sqrt(2)
    theta = model.theta.clone().requires_grad_()
    logits = x @ theta
    if model.loss == "softmax":
        loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
    else:
        targets = y[:, None] if k == 2 else torch.nn.functional.one_hot(y, k)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.double(), reduction="sum")
    loss = loss + model.lam * len(x) / 2 * theta.square().sum() + (B * theta).sum()
    (gradient,) = torch.autograd.grad(loss, theta)
    return float(gradient.norm())


def retrained(model: CertifiedLogisticRegression) -> Tensor:
    """The exact minimum on the samples that are left, under the same perturbation, from the definition."""
    x, y = samples()
    rows = model.remaining
    loss = PerturbedLoss(
        x=augmented(x[rows], 0.0), targets=y[rows, None].double(), l2=model.lam * len(rows),
        perturbation=model.debug_state().perturbation, link=model.loss,
    )  # fmt: skip
    start = LossPoint(loss, torch.zeros_like(model.theta))
    return minimise(start, kept_factor(*model.theta.shape), tol=1e-9)[0].theta
