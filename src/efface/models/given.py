"""A classifier that a Python caller hands over, as a model of the grid, and how its inputs become tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efface.models.base import Model
from efface.models.estimators import Estimator, is_estimator, split
from efface.models.wrapped import wrap


@dataclass(frozen=True)
class Given:
    """What was handed over, ready for a run."""

    model: Model
    encode: Callable[[Any], Tensor]
    """Makes the tensor that a split holds of some x."""
    classes: tuple[Any, ...]
    """What y calls the logits, in their order."""
    name: str
    estimator: Estimator | None = None
    """Where it is of scikit-learn."""


class AsDtype(nn.Module):
    """Gives inputs the dtype that they had before a split made them float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def given(model: Any, x: Any, *, head: str | None = None) -> Given:
    """Prepare a classifier; it is copied, and stays as it is.

    Args:
        model: an `nn.Module` with a linear head, see `efface.models.wrapped.wrap`, or a fitted classifier of
            scikit-learn.
        x: some rows of its inputs: one tensor or array, or for a module several by name.
        head: the name of the module's last linear layer; None where it can be found.

    Raises:
        TypeError: it is neither.
        HeadError: the module has no linear head, or several.
        ValueError: it cannot be copied, is not fitted, or gives no finite logits.
    """
    if is_estimator(model):
        if head is not None:
            raise ValueError(f"head is {head!r}, but a classifier of scikit-learn has no named layers: leave it out")
        estimator = split(model, x)
        return Given(estimator.model, estimator.encode, estimator.classes, type(model).__name__, estimator)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}, but must be an nn.Module or a fitted scikit-learn classifier with "
            "predict_proba"
        )
    if isinstance(x, Mapping):
        wrapped = wrap(model, head=head, example={name: torch.as_tensor(value) for name, value in x.items()})
        pack: Any = wrapped.backbone.prepare.pack  # type: ignore[union-attr]
        encode = lambda x: pack({name: torch.as_tensor(value).cpu() for name, value in x.items()})  # noqa: E731
    else:
        example = as_tensor(x)
        prepare = None if example.is_floating_point() else AsDtype(example.dtype)
        wrapped = wrap(model, head=head, example=example, prepare=prepare)
        encode = as_tensor
    return Given(wrapped, encode, tuple(range(wrapped.head.out_features)), type(model).__name__)


def as_tensor(x: Any) -> Tensor:
    """Return inputs as a tensor on the CPU: numbers in float32, integers in their own dtype.

    Raises:
        ValueError: they are no array of numbers.
    """
    try:
        tensor = x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))  # a copy: a frame's are read-only
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"x is no array of numbers ({error}): hand over tensors, arrays, or tensors by name"
        ) from error
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor
