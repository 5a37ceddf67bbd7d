"""INLP: iterative nullspace projection (Ravfogel et al., "Null it out", ACL 2020, algorithm 1)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.fitting import check_rank, require_labels
from efface.moments import working_dtype
from efface.softmax import fit_softmax


@dataclass(frozen=True)
class InlpEraser(AffineEraser):
    """Projects off the weights of predictors, each of which was fitted on the projections off those before it; see
    `AffineEraser`.
    """

    accuracies: tuple[float, ...] = ()
    """Accuracy of each iteration's predictor, before its directions are removed: on dev if given, else on the data
    fitted on. Empty after saving and loading."""

    @classmethod
    def fit(
        cls,
        x: Tensor,
        z: Tensor,
        *,
        rank: int | None = None,
        iterations: int | None = None,
        weight: Tensor | None = None,
        affine: bool = True,
        l2: float = 1e-4,
        x_dev: Tensor | None = None,
        z_dev: Tensor | None = None,
    ) -> "InlpEraser":
        """Fit on x `[n, d]` and labels z `[n]`.

        Each iteration removes the row space of a converged softmax regression: one direction if z is binary, else
        K − 1. It ends at `rank` directions (the last iteration contributes its leading ones), after `iterations`, or
        when the predictor's weights vanish.

        Args:
            x: features; predictors see them in units of their standard deviations.
            z: labels.
            rank: how many directions to remove at most; d − 1 if None.
            iterations: how many predictors at most; no limit if None. Give one of the two.
            weight: importance weights `[n]`.
            affine: keep the mean of x where it is.
            l2: λ of the predictors.
            x_dev: `[m, d]`, for `accuracies`.
            z_dev: `[m]`

        Cost: a softmax regression for each iteration.

        Raises:
            ValueError: shapes do not fit, z is constant, or an option is wrong.
        """
        y = require_labels(x, z)
        _check(rank, iterations, x_dev, z_dev)
        limit = x.shape[1] - 1 if rank is None else check_rank(rank, x)
        dtype = working_dtype(x.dtype) if x.is_floating_point() else torch.float32
        w = torch.ones(len(x), device=x.device) if weight is None else weight
        x64, w = x.double(), (w / w.sum()).double()
        mean = w @ x64
        scale = (w @ (x64 - mean).square()).sqrt()
        scale = torch.where(scale > 0, scale, 1)

        def projected(data: Tensor) -> Tensor:
            centred = data.double() - mean
            return (centred - (centred @ removed) @ removed.mT) / scale

        x_scored, y_scored = (x, y) if x_dev is None or z_dev is None else (x_dev, z_dev.to(y))

        removed = x64.new_zeros(x.shape[1], 0)
        accuracies: list[float] = []
        while removed.shape[1] < limit and (iterations is None or len(accuracies) < iterations):
            fit = fit_softmax(projected(x), y, weight=weight, l2=l2, tol=1e-10)
            accuracies.append(float((fit.logits(projected(x_scored)).argmax(1) == y_scored).double().mean()))
            # Rows of the predictor on x itself. Their mean does not change the prediction.
            rows = (fit.weight - fit.weight.mean(0)) / scale
            rows = rows - (rows @ removed) @ removed.mT
            _, s, directions = torch.linalg.svd(rows, full_matrices=False)
            informative = s * scale.mean() > 1e-6
            if not bool(informative.any()):
                break
            new = directions[informative][: limit - removed.shape[1]]
            removed = torch.linalg.qr(torch.cat([removed, new.mT], 1))[0]
        eraser = cls.orthogonal(removed.to(dtype), mean.to(dtype) if affine else None)
        return replace(eraser, accuracies=tuple(accuracies))


def _check(rank: int | None, iterations: int | None, x_dev: Tensor | None, z_dev: Tensor | None) -> None:
    if rank is None and iterations is None:
        raise ValueError("rank and iterations are both None: give one of them, or INLP removes all but one feature")
    if iterations is not None and iterations < 1:
        raise ValueError(f"iterations is {iterations}, but must be at least 1")
    if (x_dev is None) != (z_dev is None):
        raise ValueError("x_dev and z_dev go together: give both, or neither")
