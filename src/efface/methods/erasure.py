"""What all erasure methods share: where the eraser is fitted, under which weights, and what becomes of the head."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from efface.data.groups import kamiran_calders
from efface.debiased import Debiased
from efface.erasure.affine import AffineEraser
from efface.methods.heads import refit_head
from efface.problem import Features, Problem
from efface.representations import Erased, LinearlyErased

_BATCH = 8192
FLOAT32_RTOL = 1e3 * torch.finfo(torch.float32).eps
"""Relative tolerance for singular values of statistics of float32 data."""


@dataclass(frozen=True, kw_only=True)
class Erasure(ABC):
    """Fits an eraser of the attribute and, if asked, a new head on what is left.

    Args:
        fit_on: whose features the eraser is fitted on: `train`, `pairs` (both members, each with its own attribute) or
            `train+pairs`. On biased data the attribute stands in for the label, and erasing it takes the label along.
        reweigh: fit under Kamiran–Calders weights, which make the attribute independent of the label. What is
            guaranteed then holds under the weighted law.
        min_support: columns that differ from their most frequent value in a smaller share of the rows fitted on are
            set to that value: a unit active in a handful of rows lets an eraser balance class means with outliers.
        refit_head: fit a new head on the erased features of the same rows under the same weights, instead of keeping
            the base model's.
        refit_l2: penalty λ/2 ‖W‖² of the re-fitted head, on features in units of their standard deviation.
    """

    fit_on: Literal["train", "pairs", "train+pairs"]
    reweigh: bool
    min_support: float = 0.01
    refit_head: bool = False
    refit_l2: float = 1e-3

    uses_attribute_at_test: ClassVar[bool] = False
    small: ClassVar[dict[str, Any]] = {}
    representation: ClassVar[type[Erased]] = LinearlyErased

    def __post_init__(self) -> None:
        if self.fit_on not in ("train", "pairs", "train+pairs"):
            raise ValueError(f"fit_on is {self.fit_on!r}, but must be 'train', 'pairs' or 'train+pairs'")
        if not 0 <= self.min_support < 1:
            raise ValueError(f"min_support is {self.min_support}, but must be a share of the rows, in [0, 1)")
        if self.refit_l2 <= 0:
            raise ValueError(f"refit_l2 is {self.refit_l2}, but must be positive, so that the head has a minimum")

    def skip(self, problem: Problem) -> str | None:
        if self.fit_on != "train" and problem.attribute_columns is not None and problem.flippable:
            return (
                f"fit_on={self.fit_on}: these pairs differ in the attribute's own columns alone, so that there it is "
                "independent of all that goes with it, which an eraser would leave; use method.fit_on=train"
            )
        data = self._data(problem)
        if len(data) == 0:
            return f"fit_on={self.fit_on}: the data set has no counterfactual pairs"
        if len(data.a.unique()) < 2:
            return f"fit_on={self.fit_on}: the attribute has one value only there"
        absent = torch.bincount(data.y, minlength=problem.n_classes) == 0
        if self.refit_head and absent.any():
            return f"refit_head=true: no sample of classes {absent.nonzero()[:, 0].tolist()} on fit_on={self.fit_on}"
        if self.reweigh:
            try:
                kamiran_calders(data.y, data.a, problem.n_classes, problem.n_attributes)
            except ValueError as error:
                return f"reweigh=true: {error}"
        return None

    def fit(self, problem: Problem) -> Debiased:
        data = self._data(problem)
        if self.reweigh:
            weight = kamiran_calders(data.y, data.a, problem.n_classes, problem.n_attributes)
            data = Features(data.x, data.y, data.a, weight)
        dropped, constant = rare_columns(data.x, self.min_support)
        eraser, told = self.erase(data, lambda x: torch.where(dropped, constant, x), problem)
        represent = self.representation(dropped=dropped, constant=constant, **eraser.tensors())
        info: dict[str, Any] = {"dropped_columns": int(dropped.sum()), **told}
        if isinstance(eraser, AffineEraser):
            info["rank"] = eraser.rank
        head = problem.head
        if self.refit_head:
            head, info["refit_converged"] = refit_head(
                represent(data.x, data.a), data, n_classes=problem.n_classes, l2=self.refit_l2
            )
        return Debiased(represent=represent, head=head, fitted_on=data, info=info)

    @abstractmethod
    def erase(self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem) -> tuple[Any, dict[str, Any]]:
        """An eraser of `data.a` from `drop(data.x)`, fitted under `data.weight`, and what the record shall tell of it.

        `drop` sets the rare columns of features `[m, d]` to a constant; it copies what it is given.
        """

    def _data(self, problem: Problem) -> Features:
        if self.fit_on == "train":
            return problem.train
        pairs = problem.pairs + problem.pairs_cf
        return pairs if self.fit_on == "pairs" else problem.train + pairs


class StreamedErasure(Erasure):
    """An eraser of first and second moments, which are gathered in batches."""

    def erase(self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem) -> tuple[Any, dict[str, Any]]:
        fitter = self.fitter(data.x.shape[1], problem.n_attributes, device=data.x.device, dtype=data.x.dtype)
        for rows in torch.arange(len(data), device=data.x.device).split(_BATCH):
            fitter.update(drop(data.x[rows]), data.a[rows], weight=None if data.weight is None else data.weight[rows])
        return fitter.eraser, {}

    @abstractmethod
    def fitter(self, d: int, k: int, **options: Any) -> Any:
        """A fitter of x `[n, d]` and attributes `[n]` in 0 … k − 1, with `update(x, a, weight=...)` and `eraser`.

        Args:
            d: width of the features.
            k: number of values of the attribute.
            options: `device` and `dtype`.
        """


@dataclass(frozen=True, kw_only=True)
class RankedErasure(Erasure):
    """A projection of given rank.

    Args:
        rank: directions removed; None for one fewer than the attribute has values.
        affine: keep the mean of the features where it is.
    """

    rank: int | None = None
    affine: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank is {self.rank}, but must be at least 1, or null for the rank of the attribute")

    def skip(self, problem: Problem) -> str | None:
        rank, d = self.rank_in(problem), problem.train.x.shape[1]
        return super().skip(problem) if rank < d else f"rank={rank}: there are {d} features only, and one has to stay"

    def rank_in(self, problem: Problem) -> int:
        """The rank asked for, or that of the whole attribute."""
        return problem.n_attributes - 1 if self.rank is None else self.rank


def rare_columns(x: Tensor, min_support: float) -> tuple[Tensor, Tensor]:
    """Columns of x `[n, d]` that differ from their mode in fewer than `min_support` of the rows.

    Returns:
        A mask `[d]`, and the mode of each column `[d]`.
    """
    mode = x.mode(0).values
    return (x != mode).double().mean(0) < min_support, mode
