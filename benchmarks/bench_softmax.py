"""`efface.softmax` beside scikit-learn's multinomial regression, each to the same gradient norm on the same data.

scikit-learn is given float64 arrays and the tolerance that ours has: both bound the largest entry of the gradient of
the mean loss.
"""

import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.timing import Row, seconds
from efface.softmax import fit_softmax


def tokens(n: int, d: int, k: int) -> tuple[Tensor, Tensor]:
    """Draw standardised features and labels like those of a language model's tokens.

    Words of Zipf's frequencies, with a vector each and a tag among k whose frequencies fall too; features are those
    vectors and a context, correlated by a spectrum that falls like a power; one label in twelve is another one.
    """
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def zipf(count: int, size: int, power: float) -> Tensor:
        frequency = torch.arange(1, count + 1, dtype=torch.float64) ** -power
        return torch.multinomial(frequency, size, replacement=True, generator=g)

    words = 3000
    tag, word = zipf(k, words, 1.2), zipf(words, n, 1.0)
    vector = 0.5 * normal(k, d)[tag] + 0.7 * normal(words, d)
    spectrum = torch.arange(1, d + 1, dtype=torch.float64) ** -0.7
    x = (vector[word] + 0.7 * normal(n, d)) * spectrum @ torch.linalg.qr(normal(d, d))[0]
    y = torch.where(torch.rand(n, generator=g) < 1 / 12, torch.randint(k, (n,), generator=g), tag[word])
    return (x - x.mean(0)) / x.std(0), y


def rows() -> Iterator[Row]:
    """Time a small problem to high precision, then two of a language model's size to a gradient of 1e-6."""
    n, d, k, l2 = 5_000, 100, 10, 1e-4
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64) / 10
    gumbel = -(-torch.rand(n, k, generator=g, dtype=torch.float64).log()).log()
    y = (x @ torch.randn(d, k, generator=g, dtype=torch.float64) / 1.5 + gumbel).argmax(1)
    ours = seconds(lambda: fit_softmax(x, y, l2=l2))
    for solver, tol in (("lbfgs", 1e-4), ("lbfgs", 1e-8), ("newton-cg", 1e-8), ("newton-cholesky", 1e-8)):
        yield beside(x, y, l2, ours, fit_softmax(x, y, l2=l2).weight, solver, tol, repeat=3)
    for k in (2, 17):
        x, y = tokens(50_000, 768, k)
        ours = seconds(lambda x=x, y=y: fit_softmax(x, y, l2=l2, tol=1e-6), repeat=3)  # type: ignore[misc]
        weight = fit_softmax(x, y, l2=l2, tol=1e-6).weight
        yield beside(x, y, l2, ours, weight, "lbfgs", 1e-6)
        # Of 17 classes the Hessian has 13,000 rows: one step takes minutes, and about ten would be needed.
        yield beside(x, y, l2, ours, weight, "newton-cholesky", 1e-6, max_iter=1 if k > 2 else 10_000)


def beside(
    x: Tensor,
    y: Tensor,
    l2: float,
    ours: float,
    weight: Tensor,
    solver: str,
    tol: float,
    *,
    max_iter: int = 10_000,
    repeat: int = 0,
) -> Row:
    """Time one of scikit-learn's solvers: the median of some fits, or once and for all those that take long."""
    (n, d), k = x.shape, len(weight)
    # scikit-learn's binary model has one row w, penalised as ‖w‖²; our two rows ±w/2 are penalised as ‖w‖²/2.
    model = LogisticRegression(C=(2 if k == 2 else 1) / (l2 * n), solver=solver, tol=tol, max_iter=max_iter)
    arrays = x.numpy(), y.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if repeat:
            theirs = seconds(lambda: model.fit(*arrays), repeat=repeat)
        else:
            start = time.perf_counter()
            model.fit(*arrays)
            theirs = time.perf_counter() - start
    coefficients = (weight[1] - weight[0])[None] if k == 2 else weight
    apart = np.abs(model.coef_ - coefficients.numpy()).max()
    return Row(
        f"softmax regression, n = {n:,}, d = {d}, K = {k}",
        ours,
        theirs,
        f"scikit-learn {solver}, " + (f"tol {tol:g}" if max_iter > 1 else "the first step alone"),
        f"coefficients apart by {apart:.0e}" if max_iter > 1 else "",
    )
