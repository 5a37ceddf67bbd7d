"""Certified removal beside the published procedure, which builds and inverts the Hessian anew for every removal."""

import os
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision.datasets import MNIST

from benchmarks.timing import Row, seconds
from efface.unlearning.certified.published import PublishedRemoval
from efface.unlearning.certified.removal import CertifiedLogisticRegression
from efface.unlearning.certified.rows import augmented

REMOVALS = {"certified": 200, "published": 1000}
BATCH = 20
LAMBDAS = (1e-2, 1e-3, 1e-4)
ROOMY = 1e9
"""ε of a budget that no sum of bounds spends, so that the removals can be counted out; σ is the published 10."""


def digits() -> tuple[Tensor, Tensor]:
    """Read MNIST's training digits 3 and 8: 11,982 rows of 784 pixels."""
    mnist = MNIST(os.environ.get("DATA_DIR", "data"))
    chosen = (mnist.targets == 3) | (mnist.targets == 8)
    return mnist.data[chosen].flatten(1).float() / 255, (mnist.targets[chosen] == 8).long()


def original(x: Tensor, y: Tensor, lam: float, theta: Tensor) -> Callable[[], Tensor]:
    """Return one removal to time: the Hessian on the rest, its inverse, the step and the norms of its bound.

    The spectral norm of the data is computed once, and not counted.
    """
    x, y, theta = augmented(x, 0.0).to(theta.dtype), y.to(theta.dtype), theta[:, 0]

    def remove() -> Tensor:
        removed, rest = x[0], x[1:]
        p = (rest @ theta).sigmoid()
        hessian = (rest * (p * (1 - p))[:, None]).mT @ rest
        hessian.diagonal().add_(lam * len(rest))
        leaving = ((removed @ theta).sigmoid() - y[0]) * removed + lam * theta
        step = torch.linalg.inv(hessian) @ leaving
        bound: Tensor = step.norm() * (rest @ step).norm()
        return bound

    return remove


def fitted(x: Tensor, y: Tensor, lam: float) -> tuple[CertifiedLogisticRegression, PublishedRemoval]:
    """Fit models that have removed one sample already, so that their factors are there."""
    certified = CertifiedLogisticRegression(lam, 1.0, 1e-4).fit(x, y)
    published = PublishedRemoval(lam, 10.0, ROOMY, 1e-4, generator=torch.Generator().manual_seed(0)).fit(x, y)
    for model in (certified, published):
        model.remove([len(x) - 1])
    return certified, published


def per_removal(model: CertifiedLogisticRegression | PublishedRemoval, numbers: Tensor, batch: int) -> float:
    """Return the mean seconds of a removal, those that build a new factor among them."""
    start = time.perf_counter()
    for part in numbers.split(batch):
        model.remove(part)
    return (time.perf_counter() - start) / len(numbers)


def note(model: CertifiedLogisticRegression | PublishedRemoval, removals: int) -> str:
    """Say what the removals have left."""
    measured = model.gradient_norm()
    text = f"after {removals:,} removals the gradient residual is {measured:.1e}"
    if isinstance(model, PublishedRemoval):
        spent = model.spent - model.tol
        return text + f", 1/{spent / measured:,.0f} of the accumulated bound {spent:.3g}"
    return text + f"; the noise of a release at ε = 1, δ = 1e-4 is {model.release().certificate.noise:.1e} on a weight"


def rows() -> Iterator[Row]:
    """Time for each λ both procedures one by one, then in batches, beside the original's cost in both precisions."""
    x, y = digits()
    numbers = torch.randperm(len(x) - 1, generator=torch.Generator().manual_seed(1))
    for lam in LAMBDAS:
        certified, published = fitted(x, y, lam)
        models: dict[str, CertifiedLogisticRegression | PublishedRemoval]
        models = {"certified": certified, "published": published}
        theta = published.model.theta
        theirs = {
            name: seconds(original(x, y, lam, theta.to(dtype)), repeat=7)
            for name, dtype in (("float64", torch.float64), ("float32", torch.float32))
        }
        other = "published, Hessian built and inverted each time, {}"
        for name, model in models.items():
            count = REMOVALS[name]
            taken = per_removal(model, numbers[:count], 1)
            what = f"a removal, MNIST 3 against 8, λ = {lam:g}, {name}, one by one"
            yield Row(what, taken, theirs["float64"], other.format("float64"), note(model, count))
            yield Row(what, taken, theirs["float32"], other.format("float32"))
        first = max(REMOVALS.values())
        for name, model in models.items():
            taken = per_removal(model, numbers[first : first + 50 * BATCH], BATCH)
            what = f"a removal, MNIST 3 against 8, λ = {lam:g}, {name}, in batches of {BATCH}"
            for precision, time_each in theirs.items():
                yield Row(what, taken, time_each, other.format(precision) + ", one by one")
