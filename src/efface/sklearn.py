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
        """The eraser of z `[n, k]` from x `[n, d]`, of one dtype."""

    def _tensor(self, X: Any) -> Tensor:
        check_is_fitted(self)
        return torch.from_numpy(np.array(validate_data(self, _numpy(X), dtype=[np.float64, np.float32], reset=False)))


class LEACE(_Transformer):
    """Least-squares concept erasure: no linear predictor of the concept beats a constant on the data fitted on.

    Args:
        affine: keep the mean of X where it is.
        shrinkage: of `LeaceFitter`; `"correlation"` shrinks the correlation matrix of X, True its covariance.

    Attributes:
        eraser_: the `efface.LeaceEraser`.
    """

    eraser_: AffineEraser

    def __init__(self, *, affine: bool = True, shrinkage: bool | Literal["correlation"] = "correlation") -> None:
        self.affine = affine
        self.shrinkage = shrinkage

    def _fit(self, x: Tensor, z: Tensor, weight: Tensor | None) -> AffineEraser:
        return _leace(x, z, weight, affine=self.affine, shrinkage=self.shrinkage)

    def transform(self, X: Any) -> np.ndarray:
        """`[n, d]`, the concept erased."""
        x = self._tensor(X)
        return np.asarray(self.eraser_(x))


class SAL(LEACE):
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


class RLACE(LEACE):
    """Linear adversarial concept erasure: the projection of given rank that leaves a linear predictor of the concept
    least.

    Args:
        rank: directions removed, fewer than X has columns.
        solver: of `efface.RlaceEraser.fit`.
        l2: λ of the adversary.
        affine: keep the mean of X where it is.

    Attributes:
        eraser_: the `efface.RlaceEraser`; its `solution` says what is known of it.
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
        """`[n, d]`, the concept erased.

        Args:
            X: `[n, d]`
            sensitive_features: the concept of these samples. Without them LEACE is applied, which guards the concept
                just as well and moves X further.

        Raises:
            ValueError: a value of the concept was not there in `fit`.
        """
        x = self._tensor(X)
        if sensitive_features is None:
            return np.asarray(self.fallback_(x))
        z, _ = _encode(sensitive_features, len(x), self.concept_columns_)
        return np.asarray(self.eraser_(x, torch.from_numpy(z).to(x.dtype)))


def _leace(x: Tensor, z: Tensor, weight: Tensor | None, **options: Any) -> LeaceEraser:
    fitter = LeaceFitter.fit(x, z, weight=weight, rtol=_rtol(x), **options)
    # scikit-learn's weights are repetitions, not importance: n is their sum.
    fitter.moments.weight_sq = fitter.moments.weight.clone()
    return fitter.eraser


def _rtol(x: Tensor) -> float:
    return 1e3 * torch.finfo(x.dtype).eps


def _numpy(values: Any) -> Any:
    """Torch tensors as numpy arrays; anything else as it is, so that column names survive."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _encode(
    concept: Any, n: int, columns: list[np.ndarray | None] | None
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """A concept as numbers `[n, k]`, and the categories of each of its columns (None: continuous).

    Args:
        concept: `[n]` or `[n, m]`, numbers or strings.
        n: how many samples there must be.
        columns: the categories to encode by; found if None.
    """
    values = np.asarray(_numpy(concept))
    values = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    if len(values) != n:
        raise ValueError(f"X has {n} samples but sensitive_features {len(values)}: give one for each row of X")
    if columns is not None and len(columns) != values.shape[1]:
        raise ValueError(f"sensitive_features have {values.shape[1]} columns, but were fitted with {len(columns)}")
    encoded, found = [], []
    for j in range(values.shape[1]):
        column = values[:, j]
        if columns is None:
            categories = None if column.dtype.kind in "fc" else np.unique(column.astype(_plain(column)))
        else:
            categories = columns[j]
        found.append(categories)
        if categories is None:
            numbers = column.astype(np.float64)
            if not np.isfinite(numbers).all():
                raise ValueError("sensitive_features have NaN or infinite values: drop or impute those samples first")
            encoded.append(numbers[:, None])
            continue
        column = column.astype(categories.dtype)
        unknown = np.setdiff1d(column, categories)
        if len(unknown):
            raise ValueError(f"sensitive_features hold {unknown[:5].tolist()}, which were not there in fit")
        encoded.append((column[:, None] == categories).astype(np.float64))
    return np.hstack(encoded), found


def _plain(column: np.ndarray) -> Any:
    """Object columns hold strings, or numbers that pandas has boxed."""
    return str if column.dtype.kind == "O" else column.dtype
