"""SPLINCE: erasure of a concept that keeps what a target tells (Holstege, Ravfogel & Wouters, "Preserving
Task-Relevant Information Under Linear Concept Removal", NeurIPS 2025, arXiv 2506.10703).

Where x is white, let Q_z and Q_y be orthonormal bases of the spans of Cov(x, z) and Cov(x, y), and K = Q_zᴴ Q_y. Then

    P = I − Q_z (I − K Kᴴ)⁻¹ (Q_z − Q_y Kᴴ)ᴴ

is the projection along span Q_z, so that Cov(Px, z) = 0, whose edit does not see span Q_y, so that Cov(Px, y) =
Cov(x, y). Among the affine maps with both it moves x least, in every quadratic norm at once. It exists if the two spans
meet in 0 alone. With θ the least angle between them, the edit I − P has norm 1 / sin θ, where that of LEACE has 1:
along its worst direction, x at one standard deviation moves by 1 / sin θ of them. Where K = 0, it is LEACE.

Two facts say when to use it. P has the kernel of LEACE, so that Px and what LEACE leaves are linear images of each
other: a head without a penalty, fitted anew, predicts the same from both. What SPLINCE changes are heads that are kept
or penalised. And y's covariance is kept whole, with the part of it that comes by way of z.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.inputs import as_concept, as_tensor, concept_rows, require_rows, weight_rows
from efface.erasure.oblique import ObliqueFitter, Shrinkage
from efface.erasure.whitening import concept_directions
from efface.moments import Moments, WeightKind, as_matrix, require_classes, require_finite


class SpansMeetError(ValueError):
    """No projection removes the concept and keeps the target, or it moves x too far. The message has the angle."""


@dataclass(frozen=True)
class SplinceEraser(AffineEraser):
    """The eraser of a concept with the smallest edit that keeps Cov(x, y); see `AffineEraser`."""

    angle: float | None = None
    """Degrees, 90 at most, between the spans of Cov(x, z) and Cov(x, y), where x is white; not saved. At its worst, x
    moves by 1 / sin(angle) standard deviations where it has one."""

    @classmethod
    def fit(cls, x: Any, z: Any, y: Any, **options: Any) -> "SplinceEraser":
        """Fit on x `[n, d]`, the concept z and the target y, each `[n]` or `[n, k]`.

        Tensors, numpy arrays, pandas frames and lists are taken. `options` are `weight` `[n]` and those of
        `SplinceFitter`.
        """
        return SplinceFitter.fit(x, z, y, **options).eraser


class SplinceFitter(ObliqueFitter[SplinceEraser]):
    """Streams the statistics that a `SplinceEraser` needs.

    Args:
        x_dim: width of x.
        z_dim: width of z, which is erased. Integer labels 0 … z_dim − 1 may be given in place of their one-hot columns.
        y_dim: width of y, whose covariance with x is kept; labels likewise.
        affine: keep the mean of x where it is. Turn off for an eraser that must be linear.
        device: where the statistics are kept.
        dtype: dtype of the data and of the eraser, at least float32; sums are kept in float64.
        shrinkage: see `Shrinkage`. Both guarantees hold either way.
        rtol: tolerance for canonical correlations with x, which lie between 0 and 1 whatever the units. Directions of z
            up to it are left in place, of which `eraser` warns unless they are rounding noise. Directions of y up to it
            are not kept on purpose: where x and y are white, and without shrinkage, their covariance with x changes by
            rtol / sin(angle) at most. The default suits statistics of float32 data.
        min_angle: degrees. A smaller angle between the spans, where x is white, is an error. At 1, x moves by 57
            standard deviations at its worst.
        weights: what the weights of `update` mean, see `WeightKind`.

    Cost: that of `LeaceFitter` for the statistics, and O(ndk) for those of y, or O(nd) if it is labels; twice that of
    `LeaceFitter` for the eraser. Memory 8d² bytes (24d² in `eraser`), and 8d(z_dim + y_dim).
    """

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        y_dim: int,
        *,
        affine: bool = True,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        shrinkage: Shrinkage = "correlation",
        rtol: float = 1e-4,
        min_angle: float = 1.0,
        weights: WeightKind = "importance",
    ) -> None:
        if y_dim < 1:
            raise ValueError(f"y_dim is {y_dim}, but y must have at least one column")
        if not 0.1 <= min_angle < 90:
            raise ValueError(
                f"min_angle is {min_angle}, but must be at least 0.1 and less than 90 degrees: below that, rounding "
                "of float32 data hides whether the spans meet"
            )
        super().__init__(
            x_dim,
            z_dim,
            affine=affine,
            device=device,
            dtype=dtype,
            shrinkage=shrinkage,
            rtol=rtol,
            track_xx=True,
            weights=weights,
        )
        self.y_dim, self.min_angle = y_dim, min_angle
        self.target_moments = self._no_targets()
        self._statistics = [self.moments, self.target_moments]

    @classmethod
    def fit(cls, x: Any, z: Any, y: Any, *, weight: Any = None, **options: Any) -> Self:  # type: ignore[override]
        """Fit on x `[n, d]`, concept z and target y, each `[n]` or `[n, k]`, and importance weights `[n]`.

        Tensors, numpy arrays, pandas frames and lists are taken.

        Raises:
            ValueError: shapes do not fit, values are not finite, or an option is wrong.
        """
        x, z, y = as_tensor(x, "x"), as_concept(z), as_concept(y, "y")
        require_rows(x, z)
        require_rows(x, y, "y")
        widths = x.shape[1], cls._width(z), cls._width(y, "y")
        return cls(*widths, device=x.device, dtype=x.dtype, **options).update(x, z, y, weight=weight)

    def update(self, x: Any, z: Any, y: Any, *, weight: Any = None) -> Self:  # type: ignore[override]
        """Add a batch: tensors, numpy arrays, pandas frames or lists; see `MomentsFitter.update`.

        Args:
            x: `[..., d]`
            z: the concept: labels `[...]` or `[..., 1]`, or a matrix `[..., k]`; where k is 1, also numbers `[...]`.
            y: the target, likewise.
            weight: importance weights `[...]`.

        Raises:
            ValueError: shapes do not fit, values are not finite, a label is out of range. Nothing is added then.
        """
        x, y = as_tensor(x, "x"), as_concept(y, "y")
        weight = None if weight is None else as_tensor(weight, "weight")
        rows, targets = as_matrix(x, self.x_dim, "x"), concept_rows(x, y, self.y_dim, "y")
        if targets.ndim == 1:
            require_classes(targets, self.y_dim, "y")
        else:
            require_finite(targets, "y")
        batch = self._no_targets()  # of this batch alone, so that nothing is added where z turns out to be wrong
        batch.update(rows, targets, weight_rows(x, weight))
        with self._lock:
            super().update(x, z, weight=weight)
            self.target_moments.merge(batch)
        return self

    @property
    def sigma_xy(self) -> Tensor:
        """Cov(x, y), `[d, y_dim]`."""
        return self.target_moments.cov_xz().to(self.dtype)

    def _no_targets(self) -> Moments:
        moments = self.moments
        device, dtype, weights = moments.device, moments.dtype, moments.weights
        return Moments(self.x_dim, self.y_dim, device=device, dtype=dtype, track_xx=False, weights=weights)

    def _solve(self) -> SplinceEraser:
        """Compute the eraser; of rank 0, which changes nothing, if the concept is constant or not correlated with x.

        Raises:
            SpansMeetError: the spans are less than `min_angle` apart.
        """
        erased, kept = (concept_directions(m, self.eps, whiten=True) for m in (self.moments, self.target_moments))
        left, right = self._factors(erased, self.is_significant)
        target_left, target_right = self._factors(kept, lambda strength: strength > self.tolerance)
        self._warn_of_rank(left.shape[1])
        # Each pair are the coordinates of a basis, orthonormal where x is white, and back: cross is K, and gap has the
        # squared sines of the angles between the spans for eigenvalues.
        cross = right @ target_left
        gap = torch.eye(len(cross)).to(cross) - cross @ (target_right @ left)
        angle = self._checked_angle(gap)
        proj_right = torch.linalg.solve(gap, right - cross @ target_right)
        bias = self.mean_x if self.affine else None
        return SplinceEraser(left.to(self.dtype), proj_right.to(self.dtype).contiguous(), bias, angle)

    def _checked_angle(self, gap: Tensor) -> float:
        """Return the least angle in degrees, from the matrix `[k, k]` of squared sines."""
        squares = torch.linalg.svdvals(gap)
        angle = math.degrees(math.asin(min(float(squares.min()), 1.0) ** 0.5)) if len(squares) else 90.0
        if angle >= self.min_angle:
            return angle
        raise SpansMeetError(
            f"z and y: the spans of Cov(x, z) and Cov(x, y) are {angle:.2g} degrees apart where x is white, less than "
            f"min_angle={self.min_angle:g}. A projection that removes z and keeps Cov(x, y) does not exist at 0, and "
            "moves x by 1 / sin(angle) standard deviations above it: give a y that tells other things than z does, or "
            "erase z with LEACE"
        )
