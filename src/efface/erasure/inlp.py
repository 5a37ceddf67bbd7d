"""INLP: iterative nullspace projection (Ravfogel et al., "Null it out", ACL 2020, algorithm 1)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.inputs import as_concept, check_rank, feature_matrix, labelled_rows, labels_of
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
        x: Any,
        z: Any,
        *,
        rank: int | None = None,
        iterations: int | None = None,
        weight: Any = None,
        affine: bool = True,
        l2: float = 1e-4,
        x_dev: Any = None,
        z_dev: Any = None,
    ) -> "InlpEraser":
        """Fit on x `[n, d]` and labels z `[n]`.

        Each iteration removes the row space of a converged softmax regression: one direction if z is binary, else
        K − 1. It ends at `rank` directions (the last iteration contributes its leading ones), after `iterations`, or
        when the predictor's weights vanish.

        Args:
            x: features: a tensor, a numpy array, a pandas frame or a list. Predictors see them in units of their
                standard deviations.
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
            ValueError: shapes do not fit, values are not finite, z is constant, or a weight or an option is wrong.
        """
        _check(rank, iterations, x_dev, z_dev)
        x, y, weight = labelled_rows(x, z, weight)
        limit = x.shape[1] - 1 if rank is None else check_rank(rank, x)
        x_scored, y_scored = (x, y) if x_dev is None else _dev(x_dev, z_dev, x)
        w = torch.ones(len(x), device=x.device) if weight is None else weight
        x64, w = x.double(), (w / w.sum()).double()
        mean = w @ x64
        scale = (w @ (x64 - mean).square()).sqrt()
        scale = torch.where(scale > 1e-12 * scale.max(), scale, 1)  # a dead feature of a network is often 1e-30, not 0

        def projected(data: Tensor) -> Tensor:
            centred = data.double() - mean
            scaled: Tensor = (centred - (centred @ removed) @ removed.mT) / scale
            return scaled

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
        dtype = working_dtype(x.dtype)
        eraser = cls.orthogonal(removed.to(dtype), mean.to(dtype) if affine else None)
        return replace(eraser, accuracies=tuple(accuracies))


def _dev(x_dev: Any, z_dev: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Read the data for `accuracies`, on the device of x."""
    x_dev, z_dev = feature_matrix(x_dev, "x_dev").to(x.device), as_concept(z_dev).to(x.device)
    y_dev = labels_of(z_dev)
    if y_dev is None or x_dev.shape[1] != x.shape[1] or len(y_dev) != len(x_dev):
        raise ValueError(
            f"x_dev has shape {list(x_dev.shape)} and z_dev {list(z_dev.shape)}: give x_dev [m, {x.shape[1]}], and one "
            "label for each row"
        )
    return x_dev, y_dev


def _check(rank: int | None, iterations: int | None, x_dev: Any, z_dev: Any) -> None:
    if rank is None and iterations is None:
        raise ValueError("rank and iterations are both None: give one of them, or INLP removes all but one feature")
    if iterations is not None and iterations < 1:
        raise ValueError(f"iterations is {iterations}, but must be at least 1")
    if (x_dev is None) != (z_dev is None):
        raise ValueError("x_dev and z_dev go together: give both, or neither")
