"""Certificates of erasure: how much of a concept remains, on the data fitted on and on others."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from efface.erasure.inputs import as_concept, as_tensor, concept_rows, count_classes, is_integer, weight_rows
from efface.erasure.whitening import concept_directions
from efface.moments import Moments, require_finite
from efface.softmax import fit_softmax


@dataclass(frozen=True)
class Guardedness:
    """Three measures of how much a linear predictor can still learn of a concept, from n samples in d dimensions."""

    whitened_covariance: float
    """‖Σ₀^{-½} Cov(x′, z) Σ_zz^{-½}‖₂, from 0 (guarded) to 1, with Σ₀ the covariance of the *un-erased* x. The largest
    canonical correlation if nothing is erased."""
    linear_gain: float
    """R² of the best linear predictor of z: the share of the variance of z that it explains. At least 0, and 0 if and
    only if the covariance is. In units of the un-erased x, with a slight ridge."""
    information: float | None
    """Cross-entropy of the best constant minus that of the best softmax regression, in bits; None unless z holds
    labels, and where there are moments only."""
    n: int
    d: int


def certify(eraser: Callable[[Tensor], Tensor], x: Any, z: Any, *, weight: Any = None, l2: float = 1e-7) -> Guardedness:
    """Certify an eraser on data: on those that it was fitted on, all three measures must be 0 to rounding.

    On other data from the same distribution they are not 0: erasure is exact for the sample, and a predictor fitted to
    n other samples gains about d/n by chance, erased or not. Compare with the measures of `lambda x: x`. To know
    whether a predictor *generalises*, fit a probe on one part of held-out data and score it on another
    (`efface.evaluation.probes`).

    Args:
        eraser: any map of x.
        x: `[n, d]`, un-erased.
        z: labels `[n]` or `[n, 1]`, or a matrix `[n, k]` or vector `[n]` of numbers.
        weight: importance weights `[n]`.
        l2: ridge of both predictors, on x in units of the standard deviations of the un-erased x, so that they cannot
            read rounding noise in directions that were removed.

    x, z and the weights may be tensors, numpy arrays, pandas frames or lists.

    Cost: O(n d²) and a softmax fit.

    Raises:
        TypeError: the eraser is no function.
        ValueError: shapes do not fit, that of what the eraser returns included, or values are not finite.
    """
    x, z = as_tensor(x, "x"), as_concept(z).to(getattr(x, "device", "cpu"))
    if x.ndim != 2:
        raise ValueError(f"x has shape {list(x.shape)}, but must be [n, d]")
    weight = None if weight is None else weight_rows(x, as_tensor(weight, "weight"))
    has_labels = is_integer(z) and (z.ndim == 1 or z.shape[1:] == (1,))
    k = max(count_classes(z), 2) if has_labels else 1 if z.ndim == 1 else z.shape[-1]
    concept = concept_rows(x, z, k)
    erased = _erased(eraser, x).to(torch.float64)
    before, after = (Moments(x.shape[1], k, dtype=torch.float64, device=x.device) for _ in range(2))
    before.update(x.to(torch.float64), concept, weight)
    after.update(erased, concept, weight)
    certificate = certify_moments(before, after, l2=l2)
    if not has_labels:
        return certificate
    scaled = (erased - before.mean_x) / _scale(before).mT
    return replace(certificate, information=_information(scaled, z.flatten().long(), weight, l2))


def certify_moments(before: Moments, after: Moments, *, l2: float = 1e-7) -> Guardedness:
    """Certify an eraser by the moments of data that need not be in memory; `information`, which needs them, is None.

    Args:
        before: of the un-erased x, and z; float64.
        after: of the erased x, and z; float64.
        l2: see `certify`.

    Cost: O(d³ + d²k).

    Raises:
        ValueError: there are fewer than two samples.
    """
    std = _scale(before)
    whiten_x = _inverse_root(before.cov_xx() / std / std.mT) / std.mT
    whitened = whiten_x @ concept_directions(after, torch.finfo(torch.float64).eps, whiten=True)
    C = after.cov_xz() / std
    ridge = after.cov_xx() / std / std.mT + l2 * torch.eye(len(std), dtype=C.dtype, device=C.device)
    explained = (C * torch.linalg.solve(ridge, C)).sum()
    variance = after.var_z().sum()
    return Guardedness(
        whitened_covariance=float(torch.linalg.matrix_norm(whitened, 2)) if whitened.numel() else 0.0,
        linear_gain=float(explained / variance) if variance > 0 else 0.0,
        information=None,
        n=before.count,
        d=before.x_dim,
    )


def _erased(eraser: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what an eraser makes of x `[n, d]`, of its shape.

    Raises:
        TypeError: it is no function.
        ValueError: it returns something else, or values that are not finite.
    """
    if not callable(eraser):
        raise TypeError(
            f"eraser is a {type(eraser).__name__}, but must be a function of x [n, d]: an eraser, or your own"
        )
    returned = eraser(x)
    if returned is None:
        raise ValueError("eraser returned None, but must return the erased x: end the function with a return")
    erased = as_tensor(returned, "what eraser returned").to(x.device)
    if erased.shape != x.shape:
        raise ValueError(
            f"what eraser returned has shape {list(erased.shape)}, but must be the erased x, {list(x.shape)}: a row "
            "for each row of x, in its dimensions"
        )
    require_finite(erased, "what eraser returned")
    return erased


def _scale(moments: Moments) -> Tensor:
    """Return the standard deviations of x `[d, 1]`; 1 for constant columns."""
    std = moments.var_x().sqrt()
    return torch.where(std > 0, std, 1)[:, None]


def _information(x: Tensor, y: Tensor, weight: Tensor | None, l2: float) -> float:
    """Fit labels y from x; return the loss of the best constant minus that of the best softmax regression, in bits."""
    fit = fit_softmax(x, y, weight=weight, l2=l2)
    constant = fit_softmax(x[:, :0], y, weight=weight)
    return (constant.loss - fit.loss) / math.log(2)


def _inverse_root(sigma: Tensor) -> Tensor:
    """Compute W with W Σ Wᴴ = I on the range of Σ: rows are its eigenvectors over the roots of its eigenvalues."""
    values, vectors = torch.linalg.eigh(sigma)
    in_range = values > len(sigma) * 1e-12 * values.clamp_min(0).max()
    root: Tensor = vectors[:, in_range] / values[in_range].sqrt()
    return root.mH
