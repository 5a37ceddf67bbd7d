"""The erasers as scikit-learn transformers, with fairlearn's keyword `sensitive_features` for the concept.

    LEACE().fit(X, sensitive_features=sex).transform(X)

In a `Pipeline` or a `ColumnTransformer`, switch on metadata routing and request the keyword:

    sklearn.set_config(enable_metadata_routing=True)
    make_pipeline(LEACE().set_fit_request(sensitive_features=True), LogisticRegression()).fit(
        X, y, sensitive_features=sex)

Data may be numpy arrays, pandas frames or torch tensors; column names are kept (`set_output`).
"""

import numbers
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.frozen import FrozenTensors
from efface.erasure.leace import LeaceEraser, LeaceFitter
from efface.erasure.oracle import OracleEraser
from efface.erasure.rlace import RlaceEraser, RlaceSolver
from efface.erasure.splince import SplinceFitter

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("efface.sklearn needs scikit-learn: pip install 'efface[sklearn]'") from error


class _Transformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator, ABC):
    """Validation and conversion; subclasses fit `eraser_` from tensors."""

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None, sample_weight: Any = None) -> Self:
        """Fit the eraser.

        Args:
            X: `[n, d]` numbers.
            y: ignored if `sensitive_features` are given. Without them, y itself is the concept that is erased, of
                which a warning tells: in a pipeline it is rarely meant.
            sensitive_features: the concept: labels `[n]` (integers, booleans or strings), or `[n, k]` columns of
                either; several columns are erased jointly, each by its own dtype. A column of floating-point numbers is
                taken as continuous.
            sample_weight: `[n]`, repetitions of each sample, as everywhere in scikit-learn.

        Raises:
            ValueError: shapes do not fit, values are missing or not finite, or a column mixes strings and numbers.
        """
        x, z, weight = self._read(X, y, sensitive_features, sample_weight)
        self.eraser_ = self._fit(x, z, weight)
        return self

    def _read(
        self, X: Any, y: Any, sensitive_features: Any, sample_weight: Any
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read the arguments of `fit`: x `[n, d]`, the concept `[n, k]` of the same dtype, and weights `[n]`."""
        concept = y if sensitive_features is None else sensitive_features
        name = type(self).__name__
        if concept is None:
            raise ValueError(f"{name} requires y to be passed, but the target y is None: give sensitive_features or y")
        if sensitive_features is None:
            warnings.warn(
                f"{name} erases y itself, the target, as no sensitive_features were given. Pass them; in a pipeline, "
                f"with {name}().set_fit_request(sensitive_features=True)",
                stacklevel=3,
            )
        X = validate_data(self, _numpy(X), dtype=[np.float64, np.float32])
        if len(X) < 2:
            raise ValueError(f"X has n_samples={len(X)}, but a covariance needs at least 2: 1 sample is not enough")
        weight = None
        if sample_weight is not None:
            weight = torch.from_numpy(_check_sample_weight(_numpy(sample_weight), X, dtype=np.float64, copy=True))
        z, self.concept_columns_ = _encode(concept, len(X), None)
        return torch.from_numpy(np.array(X)), torch.from_numpy(z.astype(X.dtype)), weight

    @abstractmethod
    def _fit(self, x: Tensor, z: Tensor, weight: Tensor | None) -> FrozenTensors:
        """Fit an eraser of z `[n, k]` from x `[n, d]`, of one dtype."""

    def _tensor(self, X: Any) -> Tensor:
        check_is_fitted(self)
        return torch.from_numpy(np.array(validate_data(self, _numpy(X), dtype=[np.float64, np.float32], reset=False)))


class _AffineTransformer(_Transformer):
    """A transformer whose eraser needs no concept when it is applied."""

    eraser_: AffineEraser

    def transform(self, X: Any) -> np.ndarray:
        """Erase the concept from X `[n, d]`."""
        x = self._tensor(X)
        return np.asarray(self.eraser_(x))


class LEACE(_AffineTransformer):
    """Least-squares concept erasure: no linear predictor of the concept beats a constant on the data fitted on.

    Args:
        affine: keep the mean of X where it is.
        shrinkage: of `LeaceFitter`; `"correlation"` shrinks the correlation matrix of X, True its covariance.

    Attributes:
        eraser_: the `efface.LeaceEraser`.
    """

    def __init__(self, *, affine: bool = True, shrinkage: bool | Literal["correlation"] = "correlation") -> None:
        self.affine = affine
        self.shrinkage = shrinkage

    def _fit(self, x: Tensor, z: Tensor, weight: Tensor | None) -> AffineEraser:
        return _leace(x, z, weight, affine=self.affine, shrinkage=self.shrinkage)


class SPLINCE(_AffineTransformer):
    """Concept erasure that keeps Cov(X, y) as it is (Holstege et al., 2025): LEACE for a predictor of y that stays.

    Give both y and `sensitive_features`: y is what is kept, read as `sensitive_features` are. Without
    `sensitive_features`, y itself is erased, as by LEACE, of which a warning tells.

    Args:
        affine: keep the mean of X where it is.
        shrinkage: of `LeaceFitter`; `"correlation"` shrinks the correlation matrix of X, True its covariance.
        min_angle: of `SplinceFitter`: degrees between what is erased and what is kept, below which it is an error.

    Attributes:
        eraser_: the `efface.SplinceEraser`; the `efface.LeaceEraser` if y itself is erased.
    """

    def __init__(
        self, *, affine: bool = True, shrinkage: bool | Literal["correlation"] = "correlation", min_angle: float = 1.0
    ) -> None:
        self.affine = affine
        self.shrinkage = shrinkage
        self.min_angle = min_angle

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None, sample_weight: Any = None) -> Self:
        """Fit the eraser of `sensitive_features` that keeps y, `[n]` or `[n, k]`; the rest as for `LEACE`."""
        if sensitive_features is None:
            return super().fit(X, y, sample_weight=sample_weight)
        if y is None:
            raise ValueError("SPLINCE requires y to be passed, but the target y is None: give y, or take LEACE")
        x, z, weight = self._read(X, y, sensitive_features, sample_weight)
        target = torch.from_numpy(_encode(y, len(x), None, "y")[0]).to(x.dtype)
        self.eraser_ = SplinceFitter.fit(
            x, z, target, weight=weight, weights="frequency", rtol=_rtol(x), **self.get_params()
        ).eraser
        return self

    def _fit(self, x: Tensor, z: Tensor, weight: Tensor | None) -> AffineEraser:
        return _leace(x, z, weight, affine=self.affine, shrinkage=self.shrinkage)


class SAL(_AffineTransformer):
    """Spectral attribute removal (Shao et al., 2023): the orthogonal projection off the span of Cov(X, concept).

    What is orthogonal depends on the units of X: put a `StandardScaler` before it where columns are of unlike units.

    Args:
        affine: keep the mean of X where it is.

    Attributes:
        eraser_: the `efface.LeaceEraser`.
    """

    def __init__(self, *, affine: bool = True) -> None:
        self.affine = affine

    def _fit(self, x: Tensor, z: Tensor, weight: Tensor | None) -> AffineEraser:
        return _leace(x, z, weight, affine=self.affine, method="orth")


class RLACE(_AffineTransformer):
    """Linear adversarial concept erasure: the projection of the given rank after which the best linear predictor of the
    concept has the highest loss.

    Args:
        rank: number of directions removed, fewer than X has columns.
        solver: see `efface.RlaceEraser.fit`.
        l2: λ of the adversary.
        affine: keep the mean of X where it is.
        restarts: random starts of the game, whose best end is kept; the other solvers need none.

    Attributes:
        eraser_: the `efface.RlaceEraser`; its `solution` bounds the distance from the optimum.
    """

    def __init__(
        self, *, rank: int = 1, solver: RlaceSolver = "auto", l2: float = 1e-4, affine: bool = True, restarts: int = 4
    ) -> None:
        self.rank = rank
        self.solver = solver
        self.l2 = l2
        self.affine = affine
        self.restarts = restarts

    def _fit(self, x: Tensor, z: Tensor, weight: Tensor | None) -> AffineEraser:
        if x.shape[1] <= self.rank:
            raise ValueError(f"X has n_features = {x.shape[1]}, but must have more than rank = {self.rank}")
        return RlaceEraser.fit(
            x,
            z,
            rank=self.rank,
            solver=self.solver,
            weight=weight,
            affine=self.affine,
            l2=self.l2,
            restarts=self.restarts,
        )


class OracleLEACE(_Transformer):
    """The residual of X after regression on the concept, where the concept of the samples is known.

    Attributes:
        eraser_: the `efface.OracleEraser`.
        fallback_: the `efface.LeaceEraser` for samples whose concept is not known.
    """

    eraser_: OracleEraser

    def _fit(self, x: Tensor, z: Tensor, weight: Tensor | None) -> OracleEraser:
        self.fallback_ = _leace(x, z, weight, shrinkage="correlation")
        return OracleEraser.fit(x, z, weight=weight, rtol=_rtol(x))

    def fit_transform(
        self, X: Any, y: Any = None, *, sensitive_features: Any = None, sample_weight: Any = None
    ) -> np.ndarray:
        """Fit, and transform the same data with the same `sensitive_features`."""
        self.fit(X, y, sensitive_features=sensitive_features, sample_weight=sample_weight)
        return self.transform(X, sensitive_features=sensitive_features)

    def transform(self, X: Any, *, sensitive_features: Any = None) -> np.ndarray:
        """Erase the concept from X `[n, d]`.

        Args:
            X: `[n, d]`
            sensitive_features: the concept of these samples. Without them LEACE is applied, which guards the concept
                just as well and moves X further.

        Raises:
            ValueError: the concept has a value that `fit` did not see.
        """
        x = self._tensor(X)
        if sensitive_features is None:
            return np.asarray(self.fallback_(x))
        z, _ = _encode(sensitive_features, len(x), self.concept_columns_)
        return np.asarray(self.eraser_(x, torch.from_numpy(z).to(x.dtype)))


def _leace(x: Tensor, z: Tensor, weight: Tensor | None, **options: Any) -> LeaceEraser:
    return LeaceFitter.fit(x, z, weight=weight, weights="frequency", rtol=_rtol(x), **options).eraser


def _rtol(x: Tensor) -> float:
    return 1e3 * torch.finfo(x.dtype).eps


def _numpy(values: Any) -> Any:
    """Convert torch tensors to numpy arrays; return anything else as it is, so that column names survive."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _encode(
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
        values = np.asarray(_numpy(concept), dtype=object if as_objects else None)
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
