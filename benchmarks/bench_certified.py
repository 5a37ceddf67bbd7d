"""Certified removal beside the published procedure, which builds and inverts the Hessian anew for every removal."""

import os
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision.datasets import MNIST

from benchmarks.timing import Row, seconds
from efface.unlearning.certified.removal import Budget, CertifiedLogisticRegression
from efface.unlearning.certified.rows import augmented

REMOVALS = 1000
BATCH = 20
LAMBDAS = (1e-2, 1e-3, 1e-4)
ROOMY = 1e9
"""ε of a budget that no sum of bounds spends, so that the removals can be counted out; σ is the published 10."""


def digits() -> tuple[Tensor, Tensor]:
    """MNIST's training digits 3 and 8: 11,982 rows of 784 pixels."""
    mnist = MNIST(os.environ.get("DATA_DIR", "data"))
    kept = (mnist.targets == 3) | (mnist.targets == 8)
    return mnist.data[kept].flatten(1).float() / 255, (mnist.targets[kept] == 8).long()


def published(x: Tensor, y: Tensor, lam: float, theta: Tensor) -> Callable[[], Tensor]:
    """One removal: the Hessian on the rest at the current weights, its inverse, the step and the norms of its bound.

    The spectral norm of the data is computed once, and not counted.
    """
    x, y, theta = augmented(x, 0.0).to(theta.dtype), y.to(theta.dtype), theta[:, 0]

    def remove() -> Tensor:
        gone, rest = x[0], x[1:]
        p = (rest @ theta).sigmoid()
        hessian = (rest * (p * (1 - p))[:, None]).mT @ rest
        hessian.diagonal().add_(lam * len(rest))
        leaving = ((gone @ theta).sigmoid() - y[0]) * gone + lam * theta
        step = torch.linalg.inv(hessian) @ leaving
        return step.norm() * (rest @ step).norm()

    return remove


def fitted(x: Tensor, y: Tensor, lam: float, budget: Budget) -> CertifiedLogisticRegression:
    """A model that has removed one sample already, so that its factor is there."""
    model = CertifiedLogisticRegression(
        lam, 10.0, ROOMY, 1e-4, budget=budget, generator=torch.Generator().manual_seed(0)
    ).fit(x, y)
    model.remove([len(x) - 1])
    return model


def per_removal(model: CertifiedLogisticRegression, numbers: Tensor, batch: int) -> float:
    """Mean seconds of a removal, those that build a new factor among them."""
    start = time.perf_counter()
    for part in numbers.split(batch):
        model.remove(part)
    return (time.perf_counter() - start) / len(numbers)


def rows() -> Iterator[Row]:
    """For each λ: one by one under both budgets, then in batches; the published one in both precisions."""
    x, y = digits()
    numbers = torch.randperm(len(x) - 1, generator=torch.Generator().manual_seed(1))
    for lam in LAMBDAS:
        models = {budget: fitted(x, y, lam, budget) for budget in ("bound", "measured")}
        theta = models["measured"].theta
        theirs = {
            name: seconds(published(x, y, lam, theta.to(dtype)), repeat=7)
            for name, dtype in (("float64", torch.float64), ("float32", torch.float32))
        }
        other = "published, Hessian built and inverted each time, {}"
        for budget, model in models.items():
            count = REMOVALS if budget == "bound" else 200
            taken = per_removal(model, numbers[:count], 1)
            measured, spent = model.gradient_norm(), model.spent - model.tol
            note = f"after {count:,} removals the gradient residual is {measured:.1e}"
            note += f", 1/{spent / measured:,.0f} of the accumulated bound {spent:.3g}" if budget == "bound" else ""
            what = f"a removal, MNIST 3 against 8, λ = {lam:g}, budget {budget}, one by one"
            yield Row(what, taken, theirs["float64"], other.format("float64"), note)
            yield Row(what, taken, theirs["float32"], other.format("float32"))
        for budget, model in models.items():
            taken = per_removal(model, numbers[REMOVALS : REMOVALS + 50 * BATCH], BATCH)
            what = f"a removal, MNIST 3 against 8, λ = {lam:g}, budget {budget}, in batches of {BATCH}"
            for name, time_each in theirs.items():
                yield Row(what, taken, time_each, other.format(name) + ", one by one")
