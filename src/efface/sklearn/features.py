"""Features as people have them, in arrays, frames or sparse matrices, as numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_array, validate_data

from efface.sklearn.concepts import as_numpy

_DTYPES = [np.float64, np.float32]


def read_features(estimator: Any, X: Any, ids: Sequence[int | str], *, accept_sparse: bool, reset: bool) -> Any:
    """Check X and return its columns that are no `ids`, as an array or a CSR matrix `[n, d]` of floats.

    Args:
        estimator: remembers names and number of all columns where `reset`, else they are compared with those.
        X: array, frame, tensor or sparse matrix `[n, d + len(ids)]`.
        ids: names or numbers of columns that hold the concept.
        accept_sparse: whether X may be sparse; another format than CSR is converted.
        reset: see `estimator`.

    Raises:
        ValueError: a column holds text, values are not finite, or X has other columns than in `fit`.
    """
    X = as_numpy(X)
    options: dict[str, Any] = {"dtype": _DTYPES, "accept_sparse": "csr" if accept_sparse else False}
    if not ids:
        _require_numbers(X)
        return validate_data(estimator, X, reset=reset, **options)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    rest = _columns(X, other_columns(X, ids))
    _require_numbers(rest)
    return check_array(rest, estimator=estimator, **options)


def split_concept(X: Any, ids: Sequence[int | str]) -> Any:
    """Return the columns `ids` of X as a concept: a frame where X is one, else a dense array `[n, len(ids)]`."""
    columns = _columns(as_numpy(X), _numbers_of(as_numpy(X), ids))
    return columns.toarray() if sparse.issparse(columns) else columns


def other_columns(X: Any, ids: Sequence[int | str]) -> list[int]:
    """Return the numbers of the columns of X that are no `ids`."""
    concept = set(_numbers_of(X, ids))
    others = [i for i in range(np.shape(X)[1]) if i not in concept]
    if not others:
        raise ValueError(f"sensitive_feature_ids name all {len(concept)} columns of X: nothing is left to erase from")
    return others


def _numbers_of(X: Any, ids: Sequence[int | str]) -> list[int]:
    """Return the numbers of the columns that have these names or numbers.

    Raises:
        ValueError: there is no such column, or one is named twice.
    """
    names = list(X.columns) if hasattr(X, "columns") else None
    if len(np.shape(X)) != 2:
        raise ValueError(f"X has shape {list(np.shape(X))}, but must be [n, d] to have sensitive_feature_ids")
    width = np.shape(X)[1]
    places = []
    for name in ids:
        if names is not None and name in names:
            places.append(names.index(name))
        elif isinstance(name, int | np.integer) and 0 <= name < width:
            places.append(int(name))
        else:
            known = f"columns are {names}" if names is not None else f"columns are 0 … {width - 1}, without names"
            raise ValueError(f"sensitive_feature_ids hold {name!r}, which is no column of X: its {known}")
    if len(set(places)) < len(places):
        raise ValueError(f"sensitive_feature_ids are {list(ids)}, which name a column twice: name each once")
    return places


def _columns(X: Any, places: list[int]) -> Any:
    """Return some columns of a frame, an array, nested lists or a sparse matrix."""
    if hasattr(X, "iloc"):
        return X.iloc[:, places]
    return X.tocsc()[:, places] if sparse.issparse(X) else np.asarray(X)[:, places]


def _require_numbers(X: Any) -> None:
    """Check that no column of a frame holds text.

    Raises:
        ValueError: some do; the message names them.
    """
    if not (hasattr(X, "iloc") and hasattr(X, "columns")):
        return
    text = [X.columns[i] for i in range(len(X.columns)) if _is_text(X.iloc[:, i])]
    if text:
        raise ValueError(
            f"X has columns of text, {text}, but an eraser moves numbers: encode them first, for instance with "
            "make_column_transformer((OneHotEncoder(), columns), remainder='passthrough'). If they are the concept, "
            "name them in sensitive_feature_ids"
        )


def _is_text(column: Any) -> bool:
    return any(isinstance(value, str) for value in column.unique()) if column.dtype.kind not in "biufc" else False
