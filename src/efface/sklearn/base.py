"""What all transformers have in common: which arguments they take, and what goes in and comes out."""

import numbers
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.frozen import FrozenTensors
from efface.sklearn.concepts import as_numpy, encode
from efface.sklearn.features import other_columns, read_features, split_concept

OutputDtype = Literal["float32", "float64"]
_CHUNK_BYTES = 8 << 20


class Transformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator, ABC):
    """Validation and conversion; subclasses fit `eraser_` from tensors, and take the arguments of this class.

    Args:
        alpha: how much is erased, in [0, 1]: the result is alpha · erased + (1 − alpha) · X, as in fairlearn's
            `CorrelationRemover`. Below 1 the concept can still be read.
        sensitive_feature_ids: names or numbers of the columns of X that hold the concept, in place of passing
            `sensitive_features`. They are dropped from the output.
        dtype: of the output, `"float32"` or `"float64"`; None keeps that of X. What is fitted does not depend on it.
    """

    _accepts_sparse: ClassVar[bool] = True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        sensitive_feature_ids: Sequence[int | str] | None = None,
        dtype: OutputDtype | None = None,
    ) -> None:
        self.alpha = alpha
        self.sensitive_feature_ids = sensitive_feature_ids
        self.dtype = dtype

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None, sample_weight: Any = None) -> Self:
        """Fit the eraser.

        Args:
            X: `[n, d]` numbers. A sparse matrix stays sparse: its statistics are summed without its zeros, in float64.
            y: ignored if the concept is given. Without one, y itself is what is erased, of which a warning tells: in a
                pipeline it is rarely meant.
            sensitive_features: the concept: labels `[n]` (integers, booleans or strings), or `[n, k]` columns of
                either; several columns are erased jointly, each by its own dtype. A column of floating-point numbers is
                taken as continuous.
            sample_weight: `[n]`, repetitions of each sample, as everywhere in scikit-learn.

        Raises:
            ValueError: shapes do not fit, values are missing or not finite, X has columns of text, a column of the
                concept mixes strings and numbers, or an option is out of range.
        """
        x, z, weight = self._read(X, y, sensitive_features, sample_weight)
        self.eraser_ = self._fit(x, z, weight)
        return self

    def _read(self, X: Any, y: Any, sensitive_features: Any, sample_weight: Any) -> tuple[Any, Tensor, Tensor | None]:
        """Read the arguments of `fit`: x `[n, d]`, the concept `[n, k]` of the same dtype, and weights `[n]`."""
        self._check_options(sensitive_features)
        name = type(self).__name__
        if sensitive_features is None and not self._ids and y is None:
            raise ValueError(f"{name} requires y to be passed, but the target y is None: give sensitive_features or y")
        features = read_features(self, X, self._ids, accept_sparse=self._accepts_sparse, reset=True)
        if self._ids:
            self._remaining = other_columns(as_numpy(X), self._ids)
        concept = self._concept(X, sensitive_features)
        if concept is None:
            warnings.warn(
                f"{name} erases y itself, the target, as no sensitive_features were given. Pass them; in a pipeline, "
                f"with {name}().set_fit_request(sensitive_features=True)",
                stacklevel=3,
            )
            concept = y
        n = features.shape[0]
        if n < 2:
            raise ValueError(f"X has n_samples={n}, but a covariance needs at least 2: 1 sample is not enough")
        weight = None
        if sample_weight is not None:
            weight = torch.from_numpy(
                _check_sample_weight(as_numpy(sample_weight), features, dtype=np.float64, copy=True)
            )
        z, self.concept_columns_ = encode(concept, n, None)
        return _tensor(features), torch.from_numpy(z.astype(features.dtype)), weight

    @property
    def _ids(self) -> Sequence[int | str]:
        return () if self.sensitive_feature_ids is None else tuple(self.sensitive_feature_ids)

    def _check_options(self, sensitive_features: Any) -> None:
        """Check what `__init__` was given, which scikit-learn wants done in `fit`."""
        alpha: Any = self.alpha
        if isinstance(alpha, bool) or not isinstance(alpha, numbers.Real) or not 0 <= float(alpha) <= 1:
            raise ValueError(
                f"alpha is {self.alpha!r}, but must lie in [0, 1]: 1 erases the concept, 0 leaves X as it is"
            )
        if self.dtype not in (None, "float32", "float64"):
            raise ValueError(f"dtype is {self.dtype!r}, but must be 'float32', 'float64' or None, for that of X")
        if isinstance(self.sensitive_feature_ids, str):
            raise ValueError(
                f"sensitive_feature_ids is {self.sensitive_feature_ids!r}, but must be a list: "
                f"give [{self.sensitive_feature_ids!r}]"
            )
        if self._ids and sensitive_features is not None:
            raise ValueError(
                "sensitive_features and sensitive_feature_ids are both given: pass the concept, or name its columns"
            )

    def _concept(self, X: Any, sensitive_features: Any) -> Any:
        """Return the concept that was passed, or that is in X; None where it is neither."""
        return split_concept(X, self._ids) if self._ids else sensitive_features

    @abstractmethod
    def _fit(self, x: Any, z: Tensor, weight: Tensor | None) -> FrozenTensors:
        """Fit an eraser of z `[n, k]` from x `[n, d]`, a tensor or a sparse matrix, of one dtype."""

    def _erased(self, X: Any, eraser: Callable[..., Tensor], z: Tensor | None = None) -> np.ndarray:
        """Apply an eraser to X `[n, d]`, of z `[n, k]` where it is called with that; of sparse rows some at a time."""
        features = read_features(self, X, self._ids, accept_sparse=self._accepts_sparse, reset=False)
        n, d = features.shape
        dtype = features.dtype if self.dtype is None else np.dtype(self.dtype)
        result = np.empty((n, d), dtype)
        rows = max(_CHUNK_BYTES // (8 * d), 1) if sparse.issparse(features) else max(n, 1)
        for start in range(0, n, rows):
            part = features[start : start + rows]
            x = torch.from_numpy(part.toarray() if sparse.issparse(part) else np.array(part))
            erased = eraser(x) if z is None else eraser(x, z[start : start + rows].to(x.dtype))
            erased = erased if self.alpha == 1 else self.alpha * erased + (1 - self.alpha) * x
            result[start : start + rows] = erased.numpy()
        return result

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the columns of the output: those of X without `sensitive_feature_ids`."""
        names: np.ndarray = super().get_feature_names_out(input_features)
        return names[self._remaining] if self._ids else names

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self._accepts_sparse
        return tags


class AffineTransformer(Transformer):
    """A transformer whose eraser needs no concept when it is applied."""

    eraser_: AffineEraser

    def transform(self, X: Any) -> np.ndarray:
        """Erase the concept from X `[n, d]`; the result is dense."""
        check_is_fitted(self)
        return self._erased(X, self.eraser_)


def _tensor(features: Any) -> Any:
    """Return a copy of an array as a tensor, and a sparse matrix as it is."""
    return features if sparse.issparse(features) else torch.from_numpy(np.array(features))
