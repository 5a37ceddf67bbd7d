"""SPLINCE as a method of the grid."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from torch import Tensor

from efface.erasure.splince import SpansMeetError, SplinceFitter
from efface.methods.base import NotApplicable
from efface.methods.erasure import Erasure, batches
from efface.options import Ge, Gt, Lt, options
from efface.problem import Features, Problem


@options
class Splince(Erasure):
    """The smallest edit after which no linear predictor can read the attribute, and Cov(features, label) is as it was.

    Holstege, Ravfogel & Wouters, 2025. A head that is kept gains by it; one that is fitted anew predicts as it does
    after LEACE, but for its penalty. It cannot run where the spans of the two covariances meet.

    Args:
        affine: keep the mean of the features where it is.
        shrinkage: which estimate is shrunk, see `LeaceFitter`: the `correlation` matrix of the features, so that their
            units do not matter; their covariance if true, for features of one scale; none if false.
        rtol: canonical correlations with the attribute below this are left alone. 1e-4 suits statistics of float32
            data.
        min_angle: degrees between the spans of Cov(features, attribute) and Cov(features, label), where the features
            are white, below which the edit, 1 / sin(angle), is too large.
    """

    affine: bool = True
    shrinkage: bool | Literal["correlation"] = "correlation"
    rtol: Annotated[float, Gt(0), Lt(1)] = 1e-4
    min_angle: Annotated[float, Ge(0.1), Lt(90)] = 1.0

    def erase(self, data: Features, drop: Callable[[Tensor], Tensor], problem: Problem) -> tuple[Any, dict[str, Any]]:
        fitter = SplinceFitter(
            data.x.shape[1],
            problem.n_attributes,
            problem.n_classes,
            affine=self.affine,
            device=data.x.device,
            dtype=data.x.dtype,
            shrinkage=self.shrinkage,
            rtol=self.rtol,
            min_angle=self.min_angle,
        )
        for batch in batches(data, drop):
            fitter.update(batch.x, batch.a, batch.y, weight=batch.weight)
        try:
            eraser = fitter.eraser
        except SpansMeetError as error:
            raise NotApplicable(f"fit_on={self.fit_on}, with z the attribute and y the label: {error}") from error
        return eraser, {"angle": eraser.angle}
