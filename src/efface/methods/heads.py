"""Fit a new head on what a method has made of the features."""

import torch
from torch import Tensor

from efface.problem import Features
from efface.softmax import fit_softmax


def refit_head(x: Tensor, data: Features, *, n_classes: int, l2: float) -> tuple[torch.nn.Linear, bool]:
    """Fit a softmax head on x `[n, d]` for the labels and weights of `data`. Returns it, and whether it converged.

    Columns are standardised for the fit, so that λ means the same whatever the units of the features. A column of which
    erasure has left only rounding noise, compared with `data.x`, is left out.
    """
    mean, std = x.double().mean(0), x.double().std(0)
    informative = std > 1e-5 * data.x.double().std(0)
    scale = torch.where(informative, std, 1)
    standardised = torch.where(informative, (x - mean) / scale, 0)
    fit = fit_softmax(standardised, data.y, n_classes=n_classes, weight=data.weight, l2=l2)
    head = fit.head()
    with torch.no_grad():
        weight = torch.where(informative, fit.weight / scale, 0)
        head.weight.copy_(weight)
        head.bias.copy_(fit.bias - weight @ mean)  # type: ignore[operator]
    return head, fit.converged
