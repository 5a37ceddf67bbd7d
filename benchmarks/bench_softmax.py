"""`efface.softmax` beside scikit-learn's multinomial regression, at equal solutions."""

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks.timing import Row, seconds
from efface.softmax import fit_softmax


def rows() -> Iterator[Row]:
    """5,000 samples, 100 correlated features, 10 classes drawn from a softmax of them."""
    n, d, k, l2 = 5_000, 100, 10, 1e-4
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64) / 10
    gumbel = -(-torch.rand(n, k, generator=g, dtype=torch.float64).log()).log()
    y = (x @ torch.randn(d, k, generator=g, dtype=torch.float64) / 1.5 + gumbel).argmax(1)
    fit = fit_softmax(x, y, l2=l2)
    ours = seconds(lambda: fit_softmax(x, y, l2=l2))
    x_np, y_np = x.numpy(), y.numpy()
    for solver, tol in (("lbfgs", 1e-4), ("lbfgs", 1e-8), ("newton-cg", 1e-8), ("newton-cholesky", 1e-8)):
        model = LogisticRegression(C=1 / (l2 * n), solver=solver, tol=tol, max_iter=10_000)
        theirs = seconds(lambda model=model: model.fit(x_np, y_np), repeat=3)  # type: ignore[misc]
        apart = np.abs(model.coef_ - fit.weight.numpy()).max()
        yield Row(
            f"softmax regression, n = {n:,}, d = {d}, K = {k}", ours, theirs, f"scikit-learn {solver}, tol {tol:g}",
            f"gradient ≤ {fit.grad_norm:.0e}; coefficients apart by {apart:.0e}",
        )  # fmt: skip
