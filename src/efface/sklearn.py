"""The erasers as scikit-learn transformers, with fairlearn's keyword `sensitive_features` for the concept.

    LEACE().fit(X, sensitive_features=sex).transform(X)

In a `Pipeline` or a `ColumnTransformer`, switch on metadata routing and request the keyword:

    sklearn.set_config(enable_metadata_routing=True)
    make_pipeline(LEACE().set_fit_request(sensitive_features=True), LogisticRegression()).fit(
        X, y, sensitive_features=sex)

Data may be numpy arrays, pandas frames or torch tensors; column names are kept (`set_output`).
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.frozen import FrozenTensors
from efface.erasure.leace import LeaceEraser, LeaceFitter
from efface.erasure.oracle import OracleEraser
from efface.erasure.rlace import RlaceEraser, RlaceSolver

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
            y: ignored if `sensitive_features` are given. Without them, y itself is the concept that is erased.
            sensitive_features: the concept: labels `[n]` (numbers or strings), or `[n, k]` columns of either; several
                columns are erased jointly. A column of floating-point numbers is taken as continuous.
            sample_weight: `[n]`, repetitions of each sample, as everywhere in scikit-learn.
        """
        concept = y if sensitive_features is None else sensitive_features
        if concept is None:
            name = type(self).__name__
            raise ValueError(f"{name} requires y to be passed, but the target y is None: give sensitive_features or y")
        X = validate_data(self, _numpy(X), dtype=[np.float64, np.float32])
        if len(X) < 2:
            raise ValueError(f"X has n_samples={len(X)}, but a covariance needs at least 2: 1 sample is not enough")
        weight = None
        if sample_weight is not None:
            weight = torch.from_numpy(_check_sample_weight(_numpy(sample_weight), X, dtype=np.float64, copy=True))
        z, self.concept_columns_ = _encode(concept, len(X), None)
        self.eraser_ = self._fit(torch.from_numpy(np.array(X)), torch.from_numpy(z.astype(X.dtype)), weight)
        return self

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


class SAL(_AffineTransformer):
    """Spectral attribute removal (Shao et al., 2023): the orthogonal projection off the span of Cov(X, concept).

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

    Attributes:
        eraser_: the `efface.RlaceEraser`; its `solution` bounds the distance from the optimum.
    """

    def __init__(self, *, rank: int = 1, solver: RlaceSolver = "auto", l2: float = 1e-4, affine: bool = True) -> None:
        self.rank = rank
        self.solver = solver
        self.l2 = l2
        self.affine = affine

    def _fit(self, x: Tensor, z: Tensor, weight: Tensor | None) -> AffineEraser:
        if x.shape[1] <= self.rank:
            raise ValueError(f"X has n_features = {x.shape[1]}, but must have more than rank = {self.rank}")
        return RlaceEraser.fit(x, z, rank=self.rank, solver=self.solver, weight=weight, affine=self.affine, l2=self.l2)


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
    concept: Any, n: int, columns: list[np.ndarray | None] | None
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Encode a concept as numbers `[n, k]`; return them, and the categories of each of its columns (None: continuous).

    Args:
        concept: `[n]` or `[n, m]`, numbers or strings.
        n: the number of samples that X has.
        columns: the categories to encode by; those that occur if None.

    Raises:
        ValueError: n or the number of columns differs, values are not finite, or a category is not in `columns`.
    """
    values = np.asarray(_numpy(concept))
    values = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    if len(values) != n:
        raise ValueError(f"X has {n} samples but sensitive_features {len(values)}: give one for each row of X")
    if columns is not None and len(columns) != values.shape[1]:
        raise ValueError(f"sensitive_features have {values.shape[1]} columns, but were fitted with {len(columns)}")
    if columns is None:
        columns = [_categories(column) for column in values.T]
    encoded = [_encode_column(column, categories) for column, categories in zip(values.T, columns, strict=True)]
    return np.hstack(encoded), columns


def _categories(column: np.ndarray) -> np.ndarray | None:
    """Return the sorted values of a column of categories; None if it is continuous."""
    if column.dtype.kind in "fc":
        return None
    # Object columns hold strings, or numbers that pandas has boxed.
    categories: np.ndarray = np.unique(column.astype(str if column.dtype.kind == "O" else column.dtype))
    return categories


def _encode_column(column: np.ndarray, categories: np.ndarray | None) -> np.ndarray:
    """Encode a column as `[n, 1]` numbers if it is continuous, else as one-hot `[n, len(categories)]`."""
    if categories is None:
        numbers: np.ndarray = column.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("sensitive_features have NaN or infinite values: drop or impute those samples first")
        return numbers[:, None]
    column = column.astype(categories.dtype)
    unknown = np.setdiff1d(column, categories)
    if len(unknown):
        raise ValueError(f"sensitive_features hold {unknown[:5].tolist()}, which were not there in fit")
    one_hot: np.ndarray = (column[:, None] == categories).astype(np.float64)
    return one_hot
