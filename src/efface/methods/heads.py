"""Fit a new head on what a method has made of the features."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from efface.problem import Features
from efface.softmax import softmax_path


def refit_head(x: Tensor, data: Features, *, n_classes: int, l2: float) -> tuple[torch.nn.Linear, bool]:
    """Fit a softmax head on x `[n, d]` for the labels and weights of `data`. Returns it, and whether it converged.

    Columns are standardised for the fit, so that λ means the same whatever the units of the features. A column of which
    erasure has left only rounding noise, compared with `data.x`, is left out.
    """
    return next(refit_heads(x, data, n_classes=n_classes, l2=[l2]))


def refit_heads(
    x: Tensor, data: Features, *, n_classes: int, l2: Sequence[float]
) -> Iterator[tuple[torch.nn.Linear, bool]]:
    """Yield what `refit_head` returns for each penalty, from strong to weak: each fit starts where the last ended."""
    mean, std = x.double().mean(0), x.double().std(0)
    informative = std > 1e-5 * data.x.double().std(0)
    scale = torch.where(informative, std, 1)
    standardised = torch.where(informative, (x - mean) / scale, 0)
    for fit in softmax_path(standardised, data.y, l2, n_classes=n_classes, weight=data.weight):
        head = fit.head()
        with torch.no_grad():
            weight = torch.where(informative, fit.weight / scale, 0)
            head.weight.copy_(weight)
            head.bias.copy_(fit.bias - weight @ mean)  # type: ignore[operator]
        yield head, fit.converged
