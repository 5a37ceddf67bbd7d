"""What a caller gives as features, concepts and weights, in the one form that the erasers compute with."""

from typing import Any

import torch
from torch import Tensor

from efface.moments import require_classes


def as_tensor(values: Any, name: str) -> Tensor:
    """Take a tensor as it is; copy a numpy array, a frame or series of pandas, or a nested list of numbers.

    Raises:
        ValueError: they are not numbers; the message begins with `name`.
    """
    if isinstance(values, Tensor):
        return values
    array = values.to_numpy() if hasattr(values, "to_numpy") else values
    try:
        # A copy, as torch takes no array that is read-only or that has negative strides.
        return torch.as_tensor(array.copy() if hasattr(array, "strides") else array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} is a {type(values).__name__} that torch cannot read ({error}): give a tensor, an array or a list "
            "of numbers; encode strings as labels 0 … K − 1 first"
        ) from error


def as_concept(z: Any) -> Tensor:
    """Take a concept like `as_tensor`.

    Raises:
        ValueError: it does not hold numbers, or it is a frame with columns of unlike dtype, of which one would be read
            as the other.
    """
    dtypes = getattr(z, "dtypes", ())
    if hasattr(dtypes, "__iter__"):
        kinds = {getattr(dtype, "kind", "O") for dtype in dtypes}
        if len(kinds) > 1:
            raise ValueError(
                f"z has columns of the dtypes {', '.join(sorted({str(dtype) for dtype in dtypes}))}: give each column "
                "as a concept of its own, erase_jointly(x, [z[name] for name in z])"
            )
    return as_tensor(z, "z")


def is_integer(z: Tensor) -> bool:
    """Tell whether z holds integers or booleans, which are labels unless they are the columns of a matrix."""
    return not (z.is_floating_point() or z.is_complex())


def count_classes(z: Tensor) -> int:
    """Return K of labels 0 … K − 1.

    Raises:
        ValueError: a label is negative, or so large that it cannot be the number of a class.
    """
    high = int(z.max()) if z.numel() else 0
    if high >= max(1000, 10 * z.numel()):
        raise ValueError(
            f"z has {z.numel()} labels up to {high}: number the classes 0 … K − 1, for instance with "
            "torch.unique(z, return_inverse=True)[1]"
        )
    require_classes(z, max(high, 0) + 1)
    return high + 1


def concept_rows(x: Tensor, z: Tensor, k: int) -> Tensor:
    """Lay out a concept of x `[..., d]` as rows: labels `[n]`, or a matrix `[n, k]`.

    Args:
        x: `[..., d]`, n rows in all.
        z: labels `[...]` or `[..., 1]`, or `[..., k]`; one column of numbers may also be `[...]`.
        k: width. Where it is 1, labels are 0 and 1, and their column is returned.

    Raises:
        ValueError: z has another shape, or k is 1 and a label is neither 0 nor 1.
    """
    rows = x.shape[:-1]
    if is_integer(z) and z.shape in (rows, (*rows, 1)):
        if k > 1:
            return z.flatten()
        require_classes(z, 2)
    elif z.shape != (*rows, k) and not (k == 1 and z.shape == rows):
        labels = "labels" if k > 1 else "labels or numbers"
        raise ValueError(
            f"z has shape {list(z.shape)}, but must be {labels} {list(rows)} or {[*rows, k]}, for x {list(x.shape)}"
        )
    return z.reshape(-1, k)


def weight_rows(x: Tensor, weight: Tensor | None) -> Tensor | None:
    """Lay out the weights of x `[..., d]` as rows `[n]`.

    Raises:
        ValueError: they do not have the shape `[...]`.
    """
    if weight is not None and weight.shape != x.shape[:-1]:
        raise ValueError(
            f"weight has shape {list(weight.shape)}, but must be {list(x.shape[:-1])}, one for each sample of "
            f"x {list(x.shape)}"
        )
    return None if weight is None else weight.flatten()
