"""Deep feature re-weighting as it was published (Kirichenko et al., ICLR 2023, section 4 and appendix B; their code).

L1 logistic regressions on subsets of the external set in which all groups are equally large, on features standardised
by train; the penalty and the weights of the classes are chosen on val, and the head is the mean of several fits.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from efface.data.groups import Rule, groups
from efface.debiased import Debiased
from efface.methods.base import Method
from efface.methods.gathering import cells_without_samples, drawn_pairs, require_classes
from efface.methods.retraining import Units
from efface.methods.selection import best_on_val
from efface.options import Ge, Gt, Len, options
from efface.problem import Features, Problem
from efface.representations import Representation
from efface.unlearning.head import head_of, head_parameters

_ITERATIONS = 1000


@options
class DfrPublished(Method):
    """Fit L1 logistic regressions on group-balanced subsets of the pairs, and take the mean of their heads.

    As in the authors' code, down to liblinear, which fits more than two classes one against the rest. Two things
    differ. They tune on one half of val and fit on all of it; here the pairs are fitted on, and val is for tuning
    alone. They weight classes where subsets are not balanced; here weights are always tuned. A group of label and
    attribute without a sample is left out; the record names it.

    Args:
        number: how many pairs, drawn at random; all if None.
        c: candidates for the inverse penalty C of liblinear.
        class_weights: candidates for the weight of either of two classes, the other one's being 1.
        fits: how many subsets are drawn and fitted on.
        select: the rule on val, see `efface.data.groups.val_score`.
    """

    number: Annotated[int, Ge(1)] | None = None
    c: Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
    class_weights: Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)] = (1.0, 2.0, 3.0, 10.0, 100.0, 300.0, 1000.0)
    fits: Annotated[int, Ge(1)] = 20
    select: Rule = "worst_group_accuracy"

    small: ClassVar[dict[str, Any]] = {"c": [0.1], "class_weights": [1.0, 2.0], "fits": 2}

    def __post_init__(self) -> None:
        try:
            import sklearn  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "method=dfr_published fits with scikit-learn: pip install 'efface[sklearn]'"
            ) from error

    def training_data(self, problem: Problem) -> Features:
        rows = drawn_pairs(problem, self.number)
        data = problem.pairs.take(rows)
        if problem.flippable:  # else both members are samples of the same set, and each is in it already
            data = data + problem.pairs_cf.take(rows)
        require_classes(data, problem.n_classes, "among the pairs")
        return data

    def fit(self, problem: Problem) -> Debiased:
        data = self.training_data(problem)
        generator = torch.Generator().manual_seed(problem.seed)
        units = Units.of(problem.train.x.double())
        tried = self._candidates(_balanced(data, problem, generator), problem, units)
        best, info = best_on_val(tried, problem, self.select)
        subsets = (_balanced(data, problem, generator) for _ in range(self.fits))
        heads = [_fit(subset, problem.n_classes, units, best.c, best.weights) for subset in subsets]
        empty = cells_without_samples(data, problem)
        info |= {"fits": self.fits} | ({"empty_cells": empty} if empty else {})
        return Debiased(represent=Representation(), head=_mean(heads), fitted_on=data, info=info)

    def _candidates(self, subset: Features, problem: Problem, units: Units) -> "Iterator[_Candidate]":
        for c in self.c:
            for weights in self._weights(problem.n_classes):
                head = _fit(subset, problem.n_classes, units, c, weights)
                yield _Candidate(c, weights, head(problem.val.x))

    def _weights(self, n_classes: int) -> list[tuple[float, ...]]:
        if n_classes != 2:
            return [(1.0,) * n_classes]
        either = [(1.0, w) for w in self.class_weights] + [(w, 1.0) for w in self.class_weights]
        return list(dict.fromkeys(either))


@dataclass(frozen=True)
class _Candidate:
    searched: ClassVar[tuple[str, ...]] = ("c",)

    c: float
    weights: tuple[float, ...]
    logits: Tensor

    def facts(self) -> dict[str, Any]:
        return {"c": self.c, "class_weights": list(self.weights)}


def _balanced(data: Features, problem: Problem, generator: torch.Generator) -> Features:
    """Draw as many samples of each group as the smallest one has."""
    group = groups(data.y, data.a, problem.n_attributes).cpu()
    members = [(group == value).nonzero()[:, 0] for value in group.unique()]
    least = min(len(rows) for rows in members)
    drawn = [rows[torch.randperm(len(rows), generator=generator)[:least]] for rows in members]
    return data.take(torch.cat(drawn).to(data.y.device))


def _fit(data: Features, n_classes: int, units: Units, c: float, weights: Sequence[float]) -> nn.Linear:
    """Fit one head, for features as they are, on features in these units."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.multiclass import OneVsRestClassifier

    x, y = units(data.x.double()).cpu().numpy(), data.y.cpu().numpy()
    model = _regression(c, dict(enumerate(weights)))
    if n_classes > 2:
        model = OneVsRestClassifier(_regression(c, None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the mean of the fits counts, not the last digit of one
        model.fit(x, y)
    parts = model.estimators_ if n_classes > 2 else [model]
    weight, bias = (
        torch.from_numpy(np.concatenate([getattr(part, name) for part in parts])).to(units.mean)
        for name in ("coef_", "intercept_")
    )
    units.undo(weight, bias)
    if n_classes == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return head_of(torch.cat([weight, bias[:, None]], 1))


def _regression(c: float, class_weight: dict[int, float] | None) -> Any:
    """Return scikit-learn's L1 logistic regression, whichever way its version names the penalty."""
    import sklearn
    from sklearn.linear_model import LogisticRegression

    release = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
    penalty = {"l1_ratio": 1.0} if release >= (1, 8) else {"penalty": "l1"}
    return LogisticRegression(
        C=c, solver="liblinear", class_weight=class_weight, max_iter=_ITERATIONS, random_state=0, **penalty
    )


def _mean(heads: Sequence[nn.Linear]) -> nn.Linear:
    """Return the head whose logits are the mean of all."""
    return head_of(torch.stack([head_parameters(one) for one in heads]).mean(0))
