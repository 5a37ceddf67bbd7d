"""What all erasure methods share: where the eraser is fitted, under which weights, and what becomes of the head."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from efface.debiased import Debiased
from efface.erasure.affine import AffineEraser
from efface.methods.base import Method, NotApplicable
from efface.methods.gathering import balanced, require_classes
from efface.methods.heads import refit_head
from efface.options import Ge, Gt, Lt, options
from efface.problem import Features, Problem
from efface.representations import Erased, LinearlyErased

_BATCH = 8192


@options
class Erasure(Method):
    """Fit an eraser of the attribute and, if asked, a new head on what is left.

    A new eraser is a subclass that implements `erase`.

    Args:
        fit_on: whose features the eraser is fitted on: `train`, `pairs` (both members, each with its own attribute) or
            `train+pairs`. On biased data the attribute stands in for the label, and erasing it takes the label along.
        reweigh: fit under Kamiran–Calders weights, which make the attribute independent of the label. What is
            guaranteed then holds for the weighted distribution.
        min_support: columns that differ from their most frequent value in a smaller share of the rows fitted on are
            set to that value. Otherwise a unit that is active in a handful of rows lets an eraser balance the class
            means with outliers.
        refit_head: fit a new head on the erased features of the same rows under the same weights, instead of keeping
            the head of the base model.
        refit_l2: penalty λ/2 ‖W‖² of the re-fitted head, on features in units of their standard deviation. It must be
            positive, so that the head has a minimum.
    """

    fit_on: Literal["train", "pairs", "train+pairs"]
    reweigh: bool
    min_support: Annotated[float, Ge(0), Lt(1)] = 0.01
    refit_head: bool = False
    refit_l2: Annotated[float, Gt(0)] = 1e-3

    representation: ClassVar[type[Erased]] = LinearlyErased

    def training_data(self, problem: Problem) -> Features:
        if self.fit_on != "train" and problem.attribute_columns is not None and problem.flippable:
            raise NotApplicable(
                f"fit_on={self.fit_on}: these pairs differ in the attribute's own columns alone, so that there it is "
                "independent of all that goes with it, which an eraser would leave; use method.fit_on=train"
            )
        data = problem.train
        if self.fit_on != "train":
            pairs = problem.pairs + problem.pairs_cf
            data = pairs if self.fit_on == "pairs" else data + pairs
        if len(data) == 0:
            raise NotApplicable(f"fit_on={self.fit_on}: the data set has no counterfactual pairs")
        if len(data.a.unique()) < 2:
            raise NotApplicable(f"fit_on={self.fit_on}: the attribute has one value only there")
        if self.refit_head:
            require_classes(data, problem.n_classes, f"in fit_on={self.fit_on}, for refit_head=true to learn from")
        return balanced(data, problem) if self.reweigh else data

    def fit(self, problem: Problem) -> Debiased:
        data = self.training_data(problem)
        dropped, constant = rare_columns(data.x, self.min_support)
        eraser, facts = self.erase(data, lambda x: torch.where(dropped, constant, x), problem)
        represent = self.representation(dropped=dropped, constant=constant, **eraser.tensors())
        info: dict[str, Any] = {"dropped_columns": int(dropped.sum()), **facts}
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
        """Fit an eraser of `data.a` on `drop(data.x)`, weighted by `data.weight`.

        Args:
            data: the samples to fit on.
            drop: sets the rare columns of features `[m, d]` to a constant, in a copy.
            problem: for what else the eraser needs, such as val or the seed.

        Returns:
            The eraser, and facts for the record.
        """


class StreamedErasure(Erasure):
    """An eraser of first and second moments, which are gathered in batches."""

    def erase(self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem) -> tuple[Any, dict[str, Any]]:
        fitter = self.fitter(data.x.shape[1], problem.n_attributes, device=data.x.device, dtype=data.x.dtype)
        for batch in batches(data, drop):
            fitter.update(batch.x, batch.a, weight=batch.weight)
        return fitter.eraser, {}

    @abstractmethod
    def fitter(self, d: int, k: int, **options: Any) -> Any:
        """Make a fitter of x `[n, d]` and attributes `[n]` in 0 … k − 1, with `update(x, a, weight=...)` and `eraser`.

        Args:
            d: width of the features.
            k: number of values of the attribute.
            options: `device` and `dtype`.
        """


@options
class RankedErasure(Erasure):
    """A projection that removes a given number of directions.

    A subclass names its `eraser_class`, and overrides `eraser_options` if that takes more than a rank.

    Args:
        rank: how many directions to remove; None for one fewer than the attribute has values.
        affine: keep the mean of the features where it is.
    """

    rank: Annotated[int, Ge(1)] | None = None
    affine: bool = True

    eraser_class: ClassVar[Any]
    """Has `fit(x, a, *, rank, weight, affine, **eraser_options)`."""

    def training_data(self, problem: Problem) -> Features:
        rank, d = self.rank_in(problem), problem.train.x.shape[1]
        if rank >= d:
            raise NotApplicable(f"rank={rank}: there are {d} features only, and one has to stay")
        return super().training_data(problem)

    def rank_in(self, problem: Problem) -> int:
        """Return the rank asked for, or that of the whole attribute."""
        return problem.n_attributes - 1 if self.rank is None else self.rank

    def eraser_options(self, problem: Problem) -> dict[str, Any]:
        """Return what else `eraser_class.fit` takes; nothing by default."""
        return {}

    def erase(self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem) -> tuple[Any, dict[str, Any]]:
        eraser = self.eraser_class.fit(
            drop(data.x),
            data.a,
            rank=self.rank_in(problem),
            weight=data.weight,
            affine=self.affine,
            **self.eraser_options(problem),
        )
        return eraser, {}


def batches(data: Features, drop: Callable[[Tensor], Tensor]) -> Iterator[Features]:
    """Yield the samples in batches, with their rare columns dropped: a copy of the features of one batch at a time."""
    for rows in torch.arange(len(data), device=data.x.device).split(_BATCH):
        batch = data.take(rows)
        yield replace(batch, x=drop(batch.x))


def rare_columns(x: Tensor, min_support: float) -> tuple[Tensor, Tensor]:
    """Find the columns of x `[n, d]` that differ from their mode in fewer than `min_support` of the rows.

    Returns:
        A mask `[d]`, and the mode of each column `[d]`.
    """
    mode = x.mode(0).values
    return (x != mode).double().mean(0) < min_support, mode
