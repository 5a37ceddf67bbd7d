"""Concepts as people have them, in labels, strings or columns of either, as numbers."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


def as_numpy(values: Any) -> Any:
    """Convert torch tensors to numpy arrays; return anything else as it is, so that column names survive."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def encode(
    concept: Any, n: int, categories: list[np.ndarray | None] | None, name: str = "sensitive_features"
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Encode a concept as numbers `[n, k]`; return them, and the categories of each of its columns (None: continuous).

    Args:
        concept: `[n]` or `[n, m]`, numbers or strings.
        n: the number of samples that X has.
        categories: those to encode by; those that occur if None.
        name: of the concept, for errors.

    Raises:
        ValueError: n or the number of columns differs, values are missing or not finite, a column mixes strings and
            numbers, or a category is not in `categories`.
    """
    columns = [_plain(column, i, name) for i, column in enumerate(_columns(concept, name))]
    if len(columns[0]) != n:
        raise ValueError(f"X has {n} samples but {name} {len(columns[0])}: give one for each row of X")
    if categories is None:
        categories = [None if column.dtype.kind == "f" else np.unique(column) for column in columns]
    if len(categories) != len(columns):
        raise ValueError(f"sensitive_features have {len(columns)} columns, but were fitted with {len(categories)}")
    pairs = zip(columns, categories, strict=True)
    return np.hstack([_encode_column(column, values, i) for i, (column, values) in enumerate(pairs)]), categories


def _columns(concept: Any, name: str) -> list[np.ndarray]:
    """Split a concept into columns `[n]`, each of its own dtype."""
    if hasattr(concept, "iloc") and hasattr(concept, "columns"):  # a frame, whose columns have dtypes of their own
        columns = [np.asarray(concept.iloc[:, i]) for i in range(len(concept.columns))]
    else:
        # Numbers and strings in one list would all become strings.
        as_objects = isinstance(concept, Sequence) and not isinstance(concept, str)
        values = np.asarray(as_numpy(concept), dtype=object if as_objects else None)
        columns = list(values.reshape(len(values), -1).T) if values.ndim else [values.reshape(1)]
    if not columns:
        raise ValueError(f"{name} must not be of no columns: give at least one")
    return columns


def _plain(column: np.ndarray, i: int, name: str) -> np.ndarray:
    """Return column i as strings, booleans, integers or finite floating-point numbers, without missing values."""
    if column.dtype.kind == "O":
        _require_none(sum(v is None or type(v).__name__ == "NAType" or v != v for v in column), i, name)
        column = column.astype({"str": str, "bool": bool, "int": np.int64, "float": np.float64}[_kind(column, i, name)])
    if column.dtype.kind not in "fbiuUS":
        raise ValueError(f"{name} must not have dtype {column.dtype} in column {i}: give numbers or strings")
    if column.dtype.kind == "f":
        _require_none(int((~np.isfinite(column)).sum()), i, name)
    return column


def _require_none(missing: int, i: int, name: str) -> None:
    if missing:
        raise ValueError(
            f"{name} must not have {missing} missing, NaN or infinite values in column {i}: drop or impute those "
            "samples first"
        )


def _kind(column: np.ndarray, i: int, name: str) -> str:
    """Return the one kind of value that an object column holds.

    Raises:
        ValueError: it holds several.
    """
    kinds = {_kind_of(value) for value in column}
    if len(kinds) > 1 or not kinds <= {"str", "bool", "int", "float"}:
        raise ValueError(
            f"{name} must not hold {' and '.join(sorted(kinds))} values in column {i}: make them all strings, or "
            "all numbers"
        )
    return kinds.pop() if kinds else "float"


def _kind_of(value: Any) -> str:
    kinds = {"str": str, "bool": (bool, np.bool_), "int": numbers.Integral, "float": numbers.Real}
    return next((name for name, types in kinds.items() if isinstance(value, types)), type(value).__name__)  # type: ignore[arg-type]


def _encode_column(column: np.ndarray, categories: np.ndarray | None, i: int) -> np.ndarray:
    """Encode column i as `[n, 1]` numbers if it is continuous, else as one-hot `[n, len(categories)]`."""
    are_strings = column.dtype.kind in "US"
    if categories is None:
        if are_strings:
            raise ValueError(f"sensitive_features hold strings in column {i}, which held numbers in fit")
        return column.astype(np.float64)[:, None]
    # Compared as they are: a cast would make 0.7 a 0, and "AB" an "A".
    same = are_strings == (categories.dtype.kind in "US")
    place = np.searchsorted(categories, column) if same else np.zeros(len(column), np.intp)
    place = place.clip(max=len(categories) - 1)
    unknown = np.unique(column[categories[place] != column]) if same else np.unique(column)
    if len(unknown):
        raise ValueError(f"sensitive_features hold {unknown[:5].tolist()}, which were not there in fit")
    one_hot = np.zeros((len(column), len(categories)))
    one_hot[np.arange(len(column)), place] = 1
    return one_hot
