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
    """Projects off the weights of predictors that were fitted one after the other, each on what those before had left;
    see `AffineEraser`.
    """

    accuracies: tuple[float, ...] = ()
    """Of the predictor of each iteration, before its directions are removed; on dev if given, else on the data fitted
    on. Empty once saved and loaded."""

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

        Each iteration removes the row space of a converged softmax regression, one direction if z is binary, else
        K − 1. It ends at `rank` directions (of the last iteration the leading ones), after `iterations`, or where no
        predictor is left that tells anything.

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
        """
        y = require_labels(x, z)
        if rank is None and iterations is None:
            raise ValueError("rank and iterations are both None: give one of them, or INLP removes all but one feature")
        if iterations is not None and iterations < 1:
            raise ValueError(f"iterations is {iterations}, but must be at least 1")
        if (x_dev is None) != (z_dev is None):
            raise ValueError("x_dev and z_dev go together: give both, or neither")
        limit = x.shape[1] - 1 if rank is None else check_rank(rank, x)
        dtype = working_dtype(x.dtype) if x.is_floating_point() else torch.float32
        w = torch.ones(len(x), device=x.device) if weight is None else weight
        x64, w = x.double(), (w / w.sum()).double()
        mean = w @ x64
        scale = (w @ (x64 - mean).square()).sqrt()
        scale = torch.where(scale > 0, scale, 1)

        def seen(data: Tensor) -> Tensor:
            left = data.double() - mean
            return (left - (left @ removed) @ removed.mT) / scale

        removed = x64.new_zeros(x.shape[1], 0)
        accuracies: list[float] = []
        while removed.shape[1] < limit and (iterations is None or len(accuracies) < iterations):
            fit = fit_softmax(seen(x), y, weight=weight, l2=l2, tol=1e-10)
            at, labels = (x, y) if x_dev is None or z_dev is None else (x_dev, z_dev.to(y))
            accuracies.append(float((fit.logits(seen(at)).argmax(1) == labels).double().mean()))
            # Rows of the predictor on x itself; they differ from one another, and their mean does nothing.
            rows = (fit.weight - fit.weight.mean(0)) / scale
            rows = rows - (rows @ removed) @ removed.mT
            _, s, directions = torch.linalg.svd(rows, full_matrices=False)
            telling = s * scale.mean() > 1e-6
            if not bool(telling.any()):
                break
            more = directions[telling][: limit - removed.shape[1]]
            removed = torch.linalg.qr(torch.cat([removed, more.mT], 1))[0]
        eraser = cls.orthogonal(removed.to(dtype), mean.to(dtype) if affine else None)
        return replace(eraser, accuracies=tuple(accuracies))
