"""What a caller gives as features, concepts and weights, in the one form that the erasers compute with."""

from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from efface.moments import as_numbers, require_classes, require_finite
from efface.products import SparseRows


def as_tensor(values: Any, name: str) -> Tensor:
    """Take a tensor as it is; copy a numpy array, a frame or series of pandas, or a nested list of numbers.

    Raises:
        ValueError: they are not numbers, or a tensor is sparse or on the device meta; the message begins with `name`.
    """
    if isinstance(values, Tensor):
        require_dense(values, name)
        return values
    if is_sparse(values):
        raise ValueError(f"{name} is a sparse matrix, which is not taken here: give {name}.toarray()")
    array = values.to_numpy() if hasattr(values, "to_numpy") else values
    try:
        # A copy, as torch takes no array that is read-only or that has negative strides.
        return torch.as_tensor(array.copy() if hasattr(array, "strides") else array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} is a {type(values).__name__} that torch cannot read ({error}): give a tensor, an array or a list "
            "of numbers; encode strings as labels 0 … K − 1 first"
        ) from error


def is_sparse(values: Any) -> bool:
    """Tell whether this is a sparse matrix or array of scipy."""
    return hasattr(values, "tocsr") and hasattr(values, "nnz")


def as_rows(x: Any) -> Tensor | SparseRows:
    """Take features like `as_tensor`, and a sparse matrix of scipy `[n, d]` without its zeros."""
    if isinstance(x, SparseRows):
        return x
    return SparseRows.read(x, "x") if is_sparse(x) else as_tensor(x, "x")


def require_dense(x: Tensor, name: str) -> None:
    """Check that a tensor holds all of its values.

    Raises:
        ValueError: it is sparse or on the device meta; the message begins with `name`.
    """
    if x.layout != torch.strided:
        raise ValueError(f"{name} has the layout {x.layout}, but must be dense: give {name}.to_dense()")
    if x.is_meta:
        raise ValueError(
            f"{name} is on the device meta, where a tensor has a shape and no values: load or compute it on cpu or cuda"
        )


def as_concept(z: Any, name: str = "z") -> Tensor:
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
                f"{name} has columns of the dtypes {', '.join(sorted({str(dtype) for dtype in dtypes}))}: give each "
                "column as a concept of its own, erase_jointly(x, [z[name] for name in z])"
            )
    return as_tensor(z, name)


def require_rows(x: Tensor | SparseRows, z: Tensor, name: str = "z") -> None:
    """Check that x is `[n, d]`, and a concept of that name `[n]` or `[n, k]`.

    Raises:
        ValueError: they are not.
    """
    if x.ndim != 2 or z.ndim not in (1, 2) or len(x) != len(z):
        raise ValueError(
            f"x has shape {list(x.shape)} and {name} {list(z.shape)}: give x [n, d], and {name} [n] or [n, k] of the "
            "same n"
        )


def is_integer(z: Tensor) -> bool:
    """Tell whether z holds integers or booleans, which are labels unless they are the columns of a matrix."""
    return not (z.is_floating_point() or z.is_complex())


def count_classes(z: Tensor, name: str = "z") -> int:
    """Return K of labels 0 … K − 1.

    Raises:
        ValueError: a label is negative, or so large that it cannot be the number of a class.
    """
    high = int(z.max()) if z.numel() else 0
    if high >= max(1000, 10 * z.numel()):
        raise ValueError(
            f"{name} has {z.numel()} labels up to {high}: number the classes 0 … K − 1, for instance with "
            "torch.unique(z, return_inverse=True)[1]"
        )
    require_classes(z, max(high, 0) + 1, name)
    return high + 1


def concept_rows(x: Tensor | SparseRows, z: Tensor, k: int, name: str = "z") -> Tensor:
    """Lay out a concept of x `[..., d]` as rows: labels `[n]`, or a matrix `[n, k]`.

    Args:
        x: `[..., d]`, n rows in all.
        z: labels `[...]` or `[..., 1]`, or `[..., k]`; one column of numbers may also be `[...]`.
        k: width. Where it is 1, labels are 0 and 1, and their column is returned.
        name: of the concept, for errors.

    Raises:
        ValueError: z has another shape, or k is 1 and a label is neither 0 nor 1.
    """
    rows = x.shape[:-1]
    if is_integer(z) and z.shape in (rows, (*rows, 1)):
        if k > 1:
            return z.flatten()
        require_classes(z, 2, name)
    elif z.shape != (*rows, k) and not (k == 1 and z.shape == rows):
        labels = "labels" if k > 1 else "labels or numbers"
        raise ValueError(
            f"{name} has shape {list(z.shape)}, but must be {labels} {list(rows)} or {[*rows, k]}, for x "
            f"{list(x.shape)}"
        )
    return z.reshape(-1, k)


def weight_rows(x: Tensor | SparseRows, weight: Tensor | None) -> Tensor | None:
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


def concept_matrix(z: Tensor, k: int | None = None) -> Tensor:
    """Write a concept as a matrix `[n, k]`.

    Labels (integers or booleans, `[n]` or `[n, 1]`) become one-hot columns, or one column of 0 and 1 if they are binary
    and k is 1 or not given; anything else is taken as it is, `[n]` as one column.

    Args:
        z: `[n]` or `[n, k]`.
        k: width; taken from the largest label if None.

    Raises:
        ValueError: a label is negative or not below k.
    """
    if not is_integer(z) or z.ndim > 2 or (z.ndim == 2 and z.shape[1] != 1):
        return z.reshape(len(z), -1)
    z = z.flatten()
    classes = count_classes(z) if k is None else k
    if classes <= 2 and k in (None, 1):
        require_classes(z, 2)
        return z[:, None]
    require_classes(z, classes)
    return functional.one_hot(z.long(), classes)


def labels_of(z: Tensor) -> Tensor | None:
    """Return the labels `[n]` of a concept that is integers, booleans, a column of 0 and 1, or one-hot; else None."""
    z = z.flatten() if z.ndim == 2 and z.shape[1] == 1 else z
    if z.ndim == 1:
        return z.long() if is_integer(z) or bool(((z == 0) | (z == 1)).all()) else None
    one_hot = bool(((z == 0) | (z == 1)).all()) and bool((z.sum(1) == 1).all())
    return z.long().argmax(1) if one_hot else None


def feature_matrix(x: Any, name: str = "x") -> Tensor:
    """Read real features `[n, d]`, n > 0: a tensor, a numpy array, a pandas frame or a list; integers become float32.

    Raises:
        ValueError: they have another shape, are complex, or are not finite; the message begins with `name`.
    """
    features = as_tensor(x, name)
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"{name} has shape {list(features.shape)}, but must be [n, d] with at least one row")
    if features.is_complex():
        raise ValueError(f"{name} is complex, but must be real: give its real and imaginary parts as columns")
    features = as_numbers(features, torch.float32)
    require_finite(features, name)
    return features


def labelled_rows(x: Any, z: Any, weight: Any = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Read features, their labels and importance weights: tensors, numpy arrays, pandas frames or lists.

    Args:
        x: see `feature_matrix`.
        z: labels `[n]` or `[n, 1]`, or one-hot `[n, K]`.
        weight: `[n]`, or None.

    Returns:
        x `[n, d]`, labels `[n]` int64 and weights `[n]`, on the device of x.

    Raises:
        ValueError: shapes do not fit, values are not finite, x is complex, z holds something else or one class only,
            or weights are negative or all zero.
    """
    x, z = feature_matrix(x), as_concept(z)
    if z.ndim not in (1, 2) or len(x) != len(z):
        raise ValueError(f"x has shape {list(x.shape)} and z {list(z.shape)}: give x [n, d] and one label for each row")
    y = labels_of(z)
    if y is None:
        raise ValueError(f"z has shape {list(z.shape)} and dtype {z.dtype}, but must be labels [n] or one-hot [n, K]")
    count_classes(y)
    if bool((y == y[0]).all()):
        raise ValueError(f"z is constant (a single class, {int(y[0])}): there is nothing to erase")
    return x, y.to(x.device), checked_weight(weight, x)


def checked_weight(weight: Any, x: Tensor | SparseRows) -> Tensor | None:
    """Return importance weights of x `[n, d]` as a tensor `[n]` on its device; None stands for equal ones.

    Raises:
        ValueError: they are not one for each row, negative, not finite, or all zero.
    """
    if weight is None:
        return None
    weights = as_tensor(weight, "weight")
    if weights.shape != (len(x),):
        raise ValueError(f"weight has shape {list(weights.shape)}, but must be [{len(x)}], one for each sample")
    if not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < float("inf"):
        raise ValueError("weight has negative or non-finite values, or is all zero: give importance weights >= 0")
    return weights.to(x.device)


def equal_classes(y: Tensor, weight: Tensor | None, k: int) -> Tensor:
    """Return weights `[n]` float64 that sum to n, to n / k in each of k classes y `[n]`, in the ratios of `weight`.

    Raises:
        ValueError: a class has fewer than two samples of positive weight.
    """
    w = torch.ones(len(y), dtype=torch.float64, device=y.device) if weight is None else weight.double()
    few = (torch.bincount(y[w > 0], minlength=k) < 2).nonzero()[:, 0].tolist()
    if few:
        raise ValueError(f"classes {few} have fewer than two samples of positive weight: add more, or leave them out")
    return w / torch.bincount(y, w, minlength=k)[y] * (len(y) / k)


def standard_units(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation `[d]` float64 of x `[n, d]` under weights `[n]`.

    A constant feature gets the mean deviation of the others, so that it has their unit; 1 where all are constant.
    """
    w = w / w.sum()
    mean = w @ x.double()
    scale = (w @ (x.double() - mean).square()).sqrt()
    varies = scale > 1e-12 * scale.max()
    return mean, torch.where(varies, scale, scale[varies].mean() if bool(varies.any()) else torch.ones_like(scale))


def check_rank(rank: int, x: Tensor | SparseRows) -> int:
    """Return `rank` if that many directions can be removed from x `[n, d]`.

    Raises:
        TypeError: it is not an integer.
        ValueError: unless 1 <= rank < d.
    """
    try:
        rank = index(rank)
    except TypeError:
        raise TypeError(f"rank is {rank!r}, but must be an integer: how many directions to remove") from None
    if not 1 <= rank < x.shape[1]:
        raise ValueError(f"rank is {rank}, but must lie in 1 … {x.shape[1] - 1}, so that something is erased and left")
    return rank
