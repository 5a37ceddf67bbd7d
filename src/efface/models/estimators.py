"""Fitted scikit-learn classifiers as models of the grid: a linear one is its columns and its last layer."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efface.data.text import some
from efface.models.base import Model

_TOLERANCE = 1e-5
"""Greatest difference of probabilities that counts as rounding."""


@dataclass(frozen=True)
class Estimator:
    """A fitted classifier, split where its last step begins."""

    fitted: Any
    """A copy of what was handed over."""
    model: Model
    """From what `encode` returns to logits."""
    encode: Callable[[Any], Tensor]
    """From rows as the classifier takes them to float32 `[n, d]`: the columns before a linear classifier, the
    log-probabilities of another."""
    classes: tuple[Any, ...]
    linear: bool
    """Whether its last step is a softmax of a linear map, so that it can be debiased."""


def is_estimator(model: Any) -> bool:
    """Return whether this is a classifier in the manner of scikit-learn."""
    return not isinstance(model, nn.Module) and callable(getattr(model, "predict_proba", None))


def split(estimator: Any, x: Any) -> Estimator:
    """Split a fitted classifier before its last step.

    Args:
        estimator: it, or a pipeline that ends in it; copied.
        x: some rows, on which the split is checked.

    Raises:
        ValueError: it is not fitted, or predicts several labels at once.
    """
    estimator = copy.deepcopy(estimator)
    classes = getattr(estimator, "classes_", None)
    if not isinstance(classes, np.ndarray) or classes.ndim != 1:
        fault = "has no classes_: fit it first" if classes is None else "predicts several labels at once: take one"
        raise ValueError(f"model is a {type(estimator).__name__} that {fault}")
    names = tuple(classes.tolist())
    head = _head(_last(estimator), len(names))
    if head is not None:
        with torch.no_grad():
            computed = head(_columns(estimator, x)).double().softmax(1)
        if bool((computed - torch.from_numpy(estimator.predict_proba(x))).abs().max() <= _TOLERANCE):
            model = Model(nn.Identity(), head, whole=True)
            return Estimator(estimator, model, lambda x: _columns(estimator, x), names, linear=True)
    identity = nn.Linear(len(names), len(names), bias=False)
    nn.init.eye_(identity.weight)
    model = Model(nn.Identity(), identity, whole=True)
    return Estimator(estimator, model, lambda x: _log_probabilities(estimator, x), names, linear=False)


def with_head(estimator: Any, head: nn.Linear) -> Any:
    """Return a copy of a linear classifier with the weights of a head of as many logits as it has classes."""
    estimator = copy.deepcopy(estimator)
    last = _last(estimator)
    weight = head.weight.detach().double().cpu()
    bias = torch.zeros(len(weight)).double() if head.bias is None else head.bias.detach().double().cpu()
    if len(last.coef_) == 1:  # the logit of the second class
        weight, bias = weight.diff(dim=0), bias.diff(dim=0)
    last.coef_, last.intercept_ = weight.numpy(), bias.numpy()
    return estimator


def classifier_of(head: nn.Linear, classes: Sequence[str]) -> Any:
    """Return a fitted `LogisticRegression` of a head's weights, on the columns that the head reads."""
    from sklearn.linear_model import LogisticRegression

    classifier, d = LogisticRegression(), head.in_features
    classifier.classes_, classifier.n_features_in_ = np.array(classes), d
    classifier.coef_ = np.zeros((1 if len(classes) == 2 else len(classes), d))
    return with_head(classifier, head)


def _last(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return steps[-1][1] if steps else estimator


def _head(last: Any, k: int) -> nn.Linear | None:
    """Return the weights of a linear classifier as a layer of k logits; None if it has none."""
    coef, intercept = getattr(last, "coef_", None), getattr(last, "intercept_", None)
    if not isinstance(coef, np.ndarray) or coef.ndim != 2 or len(coef) not in (1, k) or (len(coef) == 1 and k != 2):
        return None
    weight = torch.from_numpy(np.array(coef, dtype=np.float64))
    bias = torch.from_numpy(np.broadcast_to(np.asarray(intercept, dtype=np.float64), len(coef)).copy())
    if len(coef) == 1:
        weight, bias = (torch.cat([torch.zeros_like(t), t]) for t in (weight, bias))
    head = nn.Linear(weight.shape[1], k)
    head.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return head


def _columns(estimator: Any, x: Any) -> Tensor:
    has_steps = len(getattr(estimator, "steps", ())) > 1
    if not has_steps:
        _require_columns(estimator, x)
    columns = estimator[:-1].transform(x) if has_steps else x
    columns = columns.toarray() if hasattr(columns, "toarray") else columns
    try:
        return torch.from_numpy(np.array(columns, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"x cannot be made numbers ({error}): hand over a pipeline that encodes its columns"
        ) from error


def _require_columns(estimator: Any, x: Any) -> None:
    """Check what scikit-learn checks as it predicts: the number of columns and, of a frame, their names and order.

    Raises:
        ValueError: they are others than those of the fit.
    """
    fitted, names, shape = (getattr(estimator, "n_features_in_", None), *_names_and_shape(x))
    if fitted is not None and (len(shape) != 2 or shape[1] != fitted):
        raise ValueError(f"x has shape {list(shape)}, but the model was fitted on [n, {fitted}]")
    known = getattr(estimator, "feature_names_in_", None)
    if names is not None and known is not None and names != list(known):
        raise ValueError(
            f"x has the columns {some(names)}, but the model was fitted on {some(list(known))}, in that order"
        )


def _names_and_shape(x: Any) -> tuple[list[Any] | None, tuple[int, ...]]:
    return (list(x.columns) if hasattr(x, "columns") else None), tuple(np.shape(x))


def _log_probabilities(estimator: Any, x: Any) -> Tensor:
    probabilities = np.asarray(estimator.predict_proba(x), dtype=np.float64)
    return torch.from_numpy(np.log(probabilities.clip(min=np.finfo(np.float32).tiny))).float()
