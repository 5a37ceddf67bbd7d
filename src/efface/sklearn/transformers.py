"""The transformers, each of which fits one eraser."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.utils.validation import _num_samples, check_is_fitted
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.leace import LeaceEraser, LeaceFitter
from efface.erasure.oracle import OracleEraser
from efface.erasure.rlace import RlaceEraser, RlaceSolver
from efface.erasure.splince import SplinceFitter
from efface.sklearn.base import AffineTransformer, OutputDtype, Transformer
from efface.sklearn.concepts import encode


class LEACE(AffineTransformer):
    """Least-squares concept erasure: no linear predictor of the concept beats a constant on the data fitted on.

    Args:
        affine: keep the mean of X where it is.
        shrinkage: of `LeaceFitter`; `"correlation"` shrinks the correlation matrix of X, True its covariance.
        alpha: how much is erased, in [0, 1]; see `CorrelationRemover` of fairlearn.
        sensitive_feature_ids: names or numbers of the columns of X that hold the concept, dropped from the output.
        dtype: of the output: `"float32"`, `"float64"`, or None for that of X.

    Attributes:
        eraser_: the `efface.LeaceEraser`.
    """

    def __init__(
        self,
        *,
        affine: bool = True,
        shrinkage: bool | Literal["correlation"] = "correlation",
        alpha: float = 1.0,
        sensitive_feature_ids: Sequence[int | str] | None = None,
        dtype: OutputDtype | None = None,
    ) -> None:
        super().__init__(alpha=alpha, sensitive_feature_ids=sensitive_feature_ids, dtype=dtype)
        self.affine = affine
        self.shrinkage = shrinkage

    def _fit(self, x: Any, z: Tensor, weight: Tensor | None) -> AffineEraser:
        return _leace(x, z, weight, affine=self.affine, shrinkage=self.shrinkage)


class SPLINCE(AffineTransformer):
    """Concept erasure that keeps Cov(X, y) as it is (Holstege et al., 2025): LEACE for a predictor of y that stays.

    Give both y and `sensitive_features`: y is what is kept, read as `sensitive_features` are. Without
    `sensitive_features`, y itself is erased, as by LEACE, of which a warning tells.

    Args:
        affine: keep the mean of X where it is.
        shrinkage: of `LeaceFitter`; `"correlation"` shrinks the correlation matrix of X, True its covariance.
        min_angle: of `SplinceFitter`: degrees between what is erased and what is kept, below which it is an error.
        alpha: how much is erased, in [0, 1]; see `CorrelationRemover` of fairlearn.
        sensitive_feature_ids: names or numbers of the columns of X that hold the concept, dropped from the output.
        dtype: of the output: `"float32"`, `"float64"`, or None for that of X.

    Attributes:
        eraser_: the `efface.SplinceEraser`; the `efface.LeaceEraser` if y itself is erased.
    """

    _accepts_sparse = False

    def __init__(
        self,
        *,
        affine: bool = True,
        shrinkage: bool | Literal["correlation"] = "correlation",
        min_angle: float = 1.0,
        alpha: float = 1.0,
        sensitive_feature_ids: Sequence[int | str] | None = None,
        dtype: OutputDtype | None = None,
    ) -> None:
        super().__init__(alpha=alpha, sensitive_feature_ids=sensitive_feature_ids, dtype=dtype)
        self.affine = affine
        self.shrinkage = shrinkage
        self.min_angle = min_angle

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None, sample_weight: Any = None) -> Self:
        """Fit the eraser of `sensitive_features` that keeps y, `[n]` or `[n, k]`; the rest as for `LEACE`."""
        if sensitive_features is None and not self._ids:
            return super().fit(X, y, sample_weight=sample_weight)
        if y is None:
            raise ValueError("SPLINCE requires y to be passed, but the target y is None: give y, or take LEACE")
        x, z, weight = self._read(X, y, sensitive_features, sample_weight)
        target = torch.from_numpy(encode(y, len(x), None, "y")[0]).to(x.dtype)
        self.eraser_ = SplinceFitter.fit(
            x,
            z,
            target,
            weight=weight,
            weights="frequency",
            rtol=_rtol(z),
            affine=self.affine,
            shrinkage=self.shrinkage,
            min_angle=self.min_angle,
        ).eraser
        return self

    def _fit(self, x: Any, z: Tensor, weight: Tensor | None) -> AffineEraser:
        return _leace(x, z, weight, affine=self.affine, shrinkage=self.shrinkage)


class SAL(AffineTransformer):
    """Spectral attribute removal (Shao et al., 2023): the orthogonal projection off the span of Cov(X, concept).

    What is orthogonal depends on the units of X: put a `StandardScaler` before it where columns are of unlike units.

    Args:
        affine: keep the mean of X where it is.
        alpha: how much is erased, in [0, 1]; see `CorrelationRemover` of fairlearn.
        sensitive_feature_ids: names or numbers of the columns of X that hold the concept, dropped from the output.
        dtype: of the output: `"float32"`, `"float64"`, or None for that of X.

    Attributes:
        eraser_: the `efface.LeaceEraser`.
    """

    def __init__(
        self,
        *,
        affine: bool = True,
        alpha: float = 1.0,
        sensitive_feature_ids: Sequence[int | str] | None = None,
        dtype: OutputDtype | None = None,
    ) -> None:
        super().__init__(alpha=alpha, sensitive_feature_ids=sensitive_feature_ids, dtype=dtype)
        self.affine = affine

    def _fit(self, x: Any, z: Tensor, weight: Tensor | None) -> AffineEraser:
        return _leace(x, z, weight, affine=self.affine, method="orth")


class RLACE(AffineTransformer):
    """Linear adversarial concept erasure: the projection of the given rank after which the best linear predictor of the
    concept has the highest loss.

    Args:
        rank: number of directions removed, fewer than X has columns.
        solver: see `efface.RlaceEraser.fit`.
        l2: λ of the adversary.
        affine: keep the mean of X where it is.
        restarts: random starts of the game, whose best end is kept; the other solvers need none.
        alpha: how much is erased, in [0, 1]; see `CorrelationRemover` of fairlearn.
        sensitive_feature_ids: names or numbers of the columns of X that hold the concept, dropped from the output.
        dtype: of the output: `"float32"`, `"float64"`, or None for that of X.

    Attributes:
        eraser_: the `efface.RlaceEraser`; its `solution` bounds the distance from the optimum.
    """

    def __init__(
        self,
        *,
        rank: int = 1,
        solver: RlaceSolver = "auto",
        l2: float = 1e-4,
        affine: bool = True,
        restarts: int = 4,
        alpha: float = 1.0,
        sensitive_feature_ids: Sequence[int | str] | None = None,
        dtype: OutputDtype | None = None,
    ) -> None:
        super().__init__(alpha=alpha, sensitive_feature_ids=sensitive_feature_ids, dtype=dtype)
        self.rank = rank
        self.solver = solver
        self.l2 = l2
        self.affine = affine
        self.restarts = restarts

    def _fit(self, x: Any, z: Tensor, weight: Tensor | None) -> AffineEraser:
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


class OracleLEACE(Transformer):
    """The residual of X after regression on the concept, where the concept of the samples is known.

    Args:
        alpha: how much is erased, in [0, 1]; see `CorrelationRemover` of fairlearn.
        sensitive_feature_ids: names or numbers of the columns of X that hold the concept, dropped from the output.
        dtype: of the output: `"float32"`, `"float64"`, or None for that of X.

    Attributes:
        eraser_: the `efface.OracleEraser`.
        fallback_: the `efface.LeaceEraser` for samples whose concept is not known.
    """

    eraser_: OracleEraser

    def _fit(self, x: Any, z: Tensor, weight: Tensor | None) -> OracleEraser:
        self.fallback_ = _leace(x, z, weight, shrinkage="correlation")
        return OracleEraser.fit(x, z, weight=weight, rtol=_rtol(z))

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
        check_is_fitted(self)
        concept = self._concept(X, sensitive_features)
        if concept is None:
            return self._erased(X, self.fallback_)
        z, _ = encode(concept, _num_samples(X), self.concept_columns_)
        return self._erased(X, self.eraser_, torch.from_numpy(z))


def _leace(x: Any, z: Tensor, weight: Tensor | None, **options: Any) -> LeaceEraser:
    return LeaceFitter.fit(x, z, weight=weight, weights="frequency", rtol=_rtol(z), **options).eraser


def _rtol(z: Tensor) -> float:
    """Return the tolerance for a concept in the dtype of X."""
    return 1e3 * torch.finfo(z.dtype).eps
