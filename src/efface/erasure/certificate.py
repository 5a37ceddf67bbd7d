"""What is left of a concept after erasure, on the data fitted on and on others."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.erasure.fitting import concept_matrix
from efface.moments import Moments
from efface.softmax import fit_softmax


@dataclass(frozen=True)
class Guardedness:
    """What a linear predictor can still learn of a concept from n samples in d dimensions."""

    whitened_covariance: float
    """‖Σ₀^{-½} Cov(x′, z) Σ_zz^{-½}‖₂, from 0 (guarded) to 1, with Σ₀ the covariance of the *un-erased* x. The largest
    canonical correlation if nothing is erased."""
    linear_gain: float
    """R² of the best linear predictor of z: the share of the variance of z that it explains. At least 0, and 0 if and
    only if the covariance is. In units of the un-erased x, with a slight ridge."""
    information: float | None
    """Cross-entropy of the best constant minus that of the best softmax regression, in bits; None unless z holds
    labels."""
    n: int
    d: int


def certify(
    eraser: Callable[[Tensor], Tensor], x: Tensor, z: Tensor, *, weight: Tensor | None = None, l2: float = 1e-7
) -> Guardedness:
    """Certify an eraser on data: on those that it was fitted on, all three figures must be 0 to rounding.

    On other data of the same law they are not: erasure is exact for the sample, and a predictor fitted to n others
    gains about d/n by chance, erased or not. Compare with the figures of `lambda x: x`. To know whether a predictor
    *generalises*, fit a probe on one part of held-out data and score it on another (`efface.evaluation.probes`).

    Args:
        eraser: maps x.
        x: `[n, d]`, un-erased.
        z: labels `[n]`, or a matrix `[n, k]` or vector `[n]` of numbers.
        weight: importance weights `[n]`.
        l2: ridge of both predictors, on x in units of the standard deviations of the un-erased x, so that they cannot
            read rounding noise in directions that are gone.

    Cost: O(n d²) and a softmax fit.
    """
    erased = eraser(x).to(torch.float64)
    x64 = x.to(torch.float64)
    concept = concept_matrix(z).to(torch.float64)
    before, after = (Moments(x.shape[1], concept.shape[1], dtype=torch.float64, device=x.device) for _ in range(2))
    before.update(x64, concept, weight)
    after.update(erased, concept, weight)
    std = before.cov_xx().diagonal().sqrt()
    std = torch.where(std > 0, std, 1)[:, None]
    whiten_x = _inverse_root(before.cov_xx() / std / std.mT) / std.mT
    whiten_z = _inverse_root(after.cov_zz())
    left = whiten_x @ after.cov_xz() @ whiten_z.mT
    C = after.cov_xz() / std
    ridge = after.cov_xx() / std / std.mT + l2 * torch.eye(len(std), dtype=C.dtype, device=C.device)
    explained = (C * torch.linalg.solve(ridge, C)).sum()
    variance = after.cov_zz().trace()
    information = None
    if z.ndim == 1 and not z.is_floating_point():
        standardised = (erased - before.mean_x) / std.mT
        fit = fit_softmax(standardised, z.long(), weight=weight, l2=l2)
        constant = fit_softmax(standardised[:, :0], z.long(), weight=weight)
        information = (constant.loss - fit.loss) / math.log(2)
    return Guardedness(
        whitened_covariance=float(torch.linalg.matrix_norm(left, 2)) if left.numel() else 0.0,
        linear_gain=float(explained / variance) if variance > 0 else 0.0,
        information=information,
        n=len(x),
        d=x.shape[1],
    )


def _inverse_root(sigma: Tensor) -> Tensor:
    """A W with W Σ Wᴴ = I on the range of Σ: rows are its eigenvectors over the roots of its eigenvalues."""
    values, vectors = torch.linalg.eigh(sigma)
    kept = values > len(sigma) * 1e-12 * values.clamp_min(0).max()
    root: Tensor = vectors[:, kept] / values[kept].sqrt()
    return root.mH
