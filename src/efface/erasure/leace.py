"""LEACE: least-squares concept erasure (Belrose et al., "LEACE: Perfect linear concept erasure in closed form", 2023).

With Σ = Cov(x) = LLᴴ, C = Cov(x, z) and the thin SVD L⁻¹C = U S Vᴴ, the eraser of Theorem 4.3 is

    r(x) = x − (L U) (L⁻ᴴ U)ᴴ (x − μ),

an oblique projection of rank k along span(C): among the affine maps that leave Cov(r(x), z) = 0 it moves x least, in
every quadratic norm at once. One Cholesky factorisation and k solves give it; no eigendecomposition is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from efface.erasure.affine import AffineEraser
from efface.erasure.inputs import as_concept, as_tensor, concept_matrix
from efface.erasure.oblique import ObliqueFitter, Shrinkage
from efface.erasure.whitening import concept_directions, orthogonal_directions
from efface.moments import WeightKind

ErasureMethod = Literal["leace", "orth"]
"""`leace` moves x the least; `orth` projects orthogonally off span(C), which is SAL (Shao et al., 2023)."""


@dataclass(frozen=True)
class LeaceEraser(AffineEraser):
    """The eraser with the smallest edit; `AffineEraser` describes its fields and methods."""

    @classmethod
    def fit(cls, x: Any, z: Any, **options: Any) -> "LeaceEraser":
        """Fit on x `[n, d]` and z `[n]` or `[n, k]`; `options` are `weight` `[n]` and those of `LeaceFitter`.

        Tensors, numpy arrays, pandas frames and lists are taken.
        """
        return LeaceFitter.fit(x, z, **options).eraser


class LeaceFitter(ObliqueFitter[LeaceEraser]):
    """Streams the statistics that a `LeaceEraser` needs.

    Args:
        x_dim: width d of x.
        z_dim: width k of z. Integer labels 0 … k − 1 may be given in place of their one-hot columns, and are counted,
            so that many classes cost little.
        method: see `ErasureMethod`. Change it to compare with SAL, or where d is too large for a d × d covariance. What
            is orthogonal depends on the units of x, so that SAL of columns of unlike units moves the small ones most:
            standardise them first.
        affine: keep the mean of x where it is. Turn off for an eraser that must be linear. With `rtol` it is then the
            linear map that moves x least, for which Σ is E[xxᴴ]; without, that of `concept_erasure`, with Cov(x), which
            moves x further where its mean is large.
        constrain_cov_trace: accepted for compatibility with `concept_erasure`, and without effect there and here: the
            eraser lowers Σ to PΣPᴴ = Σ − (LU)(LU)ᴴ, so the trace of the covariance can only fall.
        device: where the statistics are kept.
        dtype: dtype of the data and of the eraser, at least float32; sums are kept in float64.
        shrinkage: shrink Cov(x) (`optimal_linear_shrinkage`). The guarantee holds either way; it helps the eraser to
            generalise where n is not much larger than d. `"correlation"` shrinks the correlation matrix instead, so
            that the units of the columns do not matter: take it for columns of unlike scale.
        svd_tol: singular values of L⁻¹C up to this are left alone. *Absolute*, in the units of z, as in
            `concept_erasure`: a rare concept may fall below it entirely, of which `eraser` warns.
        rtol: if given, the tolerance instead for *canonical correlations* of x and z, the singular values of
            L⁻¹C Cov(z)^{+½}, which lie between 0 and 1 whatever the units. Use this for new code. For `orth`, which
            keeps no Cov(x), it compares with the norms of a concept direction's correlations with the columns of x.
        weights: what the weights of `update` mean; `"frequency"` for those of scikit-learn, which repeat samples.

    A concept direction that the tolerance leaves in place is warned of, unless it is rounding noise; so is a concept of
    half as many directions as x has, or more, as little of x is left without them.

    Cost: O(nd² + ndk) for the statistics, O(nd²) for labels; d³/3 + O(d²k) for the eraser, and O(k³) where z is a
    matrix. Memory 8d² bytes (24d² in `eraser`) and 8dk, and 8k² where z is a matrix.
    """

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        method: ErasureMethod = "leace",
        *,
        affine: bool = True,
        constrain_cov_trace: bool = True,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        shrinkage: Shrinkage = True,
        svd_tol: float = 0.01,
        rtol: float | None = None,
        weights: WeightKind = "importance",
    ) -> None:
        if method not in ("leace", "orth"):
            raise ValueError(f"method is {method!r}, but must be 'leace' or 'orth'")
        super().__init__(
            x_dim,
            z_dim,
            affine=affine,
            device=device,
            dtype=dtype,
            shrinkage=shrinkage,
            svd_tol=svd_tol,
            rtol=rtol,
            track_xx=method == "leace",
            weights=weights,
        )
        self.method, self.constrain_cov_trace = method, constrain_cov_trace

    def _solve(self) -> LeaceEraser:
        """Compute the eraser; of rank 0, which changes nothing, if the concept is constant or not correlated with x."""
        directions = concept_directions(self.moments, self.eps, whiten=self.rtol is not None)
        if self.method == "leace":
            proj_left, proj_right = self._factors(directions, self.is_significant)
        else:
            proj_left = self._orthogonal(directions)
            proj_right = proj_left.mH
        self._warn_of_rank(proj_left.shape[1])
        bias = self.mean_x if self.affine else None
        return LeaceEraser(proj_left.to(self.dtype), proj_right.to(self.dtype).contiguous(), bias)

    def _orthogonal(self, directions: Tensor) -> Tensor:
        """Find an orthonormal basis of the span of `directions` `[d, k]`."""
        if self.rtol is None:
            U, s, _ = torch.linalg.svd(directions, full_matrices=False)
            basis: Tensor = U[:, self.is_significant(s)]
            return basis
        return orthogonal_directions(directions, self.moments.var_x().sqrt(), self.is_significant)


def erase_jointly(x: Any, concepts: Sequence[Any], **options: Any) -> LeaceEraser:
    """Fit one eraser that removes several concepts, and moves x as little as that allows.

    Args:
        x: `[n, d]`
        concepts: labels `[n]` or matrices `[n, k_i]`.
        options: of `LeaceFitter`, and `weight` `[n]`.
    """
    x, tensors = _checked(x, concepts)
    if len(tensors) == 1:
        return LeaceEraser.fit(x, tensors[0], **options)
    return LeaceEraser.fit(x, torch.cat([concept_matrix(z) for z in tensors], 1), **options)


def erase_in_sequence(x: Any, concepts: Sequence[Any], **options: Any) -> AffineEraser:
    """Erase the first concept, then the second from the result, and so on; return the composition as one eraser.

    Use it for concepts that arrive one after the other. All are removed here too: the affine maps that follow do not
    bring an erased concept back. Without shrinkage the result is that of `erase_jointly`; with it, x is moved a little
    further, and the order matters. Arguments as there.
    """
    x, tensors = _checked(x, concepts)
    eraser: AffineEraser = LeaceEraser.fit(x, tensors[0], **options)
    for z in tensors[1:]:
        eraser = eraser.then(LeaceEraser.fit(eraser(x), z, **options))
    return eraser


def _checked(x: Any, concepts: Sequence[Any]) -> tuple[Tensor, list[Tensor]]:
    x = as_tensor(x, "x")
    tensors = [as_concept(z).to(x.device) for z in concepts]
    if not tensors:
        raise ValueError("concepts is empty: give at least one")
    for i, z in enumerate(tensors):
        if z.ndim not in (1, 2) or x.ndim != 2 or len(z) != len(x):
            raise ValueError(
                f"concepts[{i}] has shape {list(z.shape)}, but must be [n] or [n, k] for x [n, d], here {list(x.shape)}"
            )
    return x, tensors
