"""Labels as they come in arrays: numbered, named, and refused where they cannot be what they are said to be."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.data.text import some

_MISSING = ("", "nan", "NaN", "None", "<NA>", "NaT")
"""What numpy and pandas make of missing values in an array of strings."""


def codes(values: np.ndarray, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Number labels 0 … K − 1 in sorted order; return them, and their names. Floats must be whole numbers.

    Args:
        values: `[n]`, integers, whole floats or strings.
        name: of the array, for messages.

    Raises:
        ValueError: the array holds something else, a missing value, or a single value only.
    """
    if values.ndim == 1 and values.dtype.kind == "f" and len(values):
        fractions = np.flatnonzero(~(np.isfinite(values) & (np.round(values) == values) & (np.abs(values) < 2**53)))
        if len(fractions):
            row = fractions[0]
            raise ValueError(
                f"{name} has dtype {values.dtype} and holds {values[row]} in row {row}, but must be integers or "
                "strings of shape [n]; floats are taken only if they are whole numbers"
            )
        values = values.astype(np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iubUS":
        raise ValueError(
            f"{name} has shape {values.shape} and dtype {values.dtype}, but must be integers or strings of shape [n]"
        )
    values = as_strings(values, name)
    if values.dtype.kind == "U":
        gaps = np.flatnonzero(np.isin(values, _MISSING))
        if len(gaps):
            raise ValueError(
                f"{name} holds {str(values[gaps[0]])!r} in row {gaps[0]}, which stands for a missing value: drop those "
                "rows, or give them a value of their own, such as 'unknown'"
            )
    names, numbers = np.unique(values, return_inverse=True)
    classes = tuple(str(value) for value in names)
    require_several(classes, name)
    require_distinct(classes, name)
    return torch.from_numpy(numbers.astype(np.int64)), classes


def as_strings(values: np.ndarray, name: str) -> np.ndarray:
    """Return strings of bytes in UTF-8 as strings; other arrays as they are."""
    if values.dtype.kind != "S":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} holds bytes that are not in UTF-8 ({error}): save strings") from error


def require_several(names: Sequence[str], name: str) -> None:
    """Refuse labels of one value, or of none."""
    if len(names) < 2:
        content = f"only one value, {names[0]}" if len(names) else "no rows"
        raise ValueError(f"{name} holds {content}: two or more values are needed")


def require_distinct(names: Sequence[str], name: str) -> None:
    """Refuse labels that differ in blanks at their ends; warn of those that differ in capitals."""
    stripped, lower = ({form(text) for text in names} for form in (str.strip, str.casefold))
    if len(stripped) < len(names):
        raise ValueError(f"{name} holds {', '.join(map(repr, names))}, of which some differ in blanks: strip them")
    if len(lower) < len(names):
        warnings.warn(
            f"{name} holds {some([repr(text) for text in names])}, of which some differ in capitals only: each counts "
            "as a value of its own",
            stacklevel=4,
        )


def label_name(value: Any) -> str:
    """Write a value as its class is named: whole numbers without a point."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)
