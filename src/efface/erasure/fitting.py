"""What fitters that work from first and second moments share: streaming, merging, tolerances, labels."""

import warnings
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from efface.moments import Moments, working_dtype

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def concept_matrix(z: Tensor, k: int | None = None) -> Tensor:
    """A concept as a matrix `[n, k]`.

    Labels (integers or booleans) `[n]` become one-hot columns, or one column of 0 and 1 if they are binary and k is not
    given; anything else is taken as it is, `[n]` as one column.

    Args:
        z: `[n]` or `[n, k]`.
        k: width; found if None.

    Raises:
        ValueError: a label is negative or not below k.
    """
    if z.ndim != 1 or z.is_floating_point() or z.is_complex():
        return z.reshape(len(z), -1)
    low, high = (int(z.min()), int(z.max())) if len(z) else (0, 0)
    if k == 1 or (k is None and low >= 0 and high <= 1):
        return z[:, None]
    classes = high + 1 if k is None else k
    if low < 0 or high >= classes:
        raise ValueError(f"z has labels from {low} to {high}, but they must lie in 0 … {classes - 1}")
    return functional.one_hot(z.long(), classes)


def labels_of(z: Tensor) -> Tensor | None:
    """The labels `[n]` of a concept given as integers, booleans, a column of 0 and 1, or one-hot columns; else None."""
    z = z.flatten() if z.ndim == 2 and z.shape[1] == 1 else z
    if z.ndim == 1:
        whole = not (z.is_floating_point() or z.is_complex()) or bool(((z == 0) | (z == 1)).all())
        return z.long() if whole else None
    one_hot = bool(((z == 0) | (z == 1)).all()) and bool((z.sum(1) == 1).all())
    return z.long().argmax(1) if one_hot else None


def require_labels(x: Tensor, z: Tensor) -> Tensor:
    """The labels `[n]` of z, on the device of x.

    Raises:
        ValueError: z holds something else, one class only, or not one label for each row of x `[n, d]`.
    """
    if x.ndim != 2 or len(x) != len(z):
        raise ValueError(f"x has shape {list(x.shape)} and z {list(z.shape)}: give x [n, d] and one label for each row")
    y = labels_of(z)
    if y is None:
        raise ValueError(f"z has shape {list(z.shape)} and dtype {z.dtype}, but must be labels [n] or one-hot [n, K]")
    if int(y.min()) < 0:
        raise ValueError(f"z has labels from {int(y.min())}, but they must be 0 … K − 1")
    if bool((y == y[0]).all()):
        raise ValueError(f"z is constant (a single class, {int(y[0])}): there is nothing to erase")
    return y.to(x.device)


def check_rank(rank: int, x: Tensor) -> int:
    """`rank`, if that many directions can be removed from x `[n, d]`: ValueError unless 1 <= rank < d."""
    if not 1 <= rank < x.shape[1]:
        raise ValueError(f"rank is {rank}, but must lie in 1 … {x.shape[1] - 1}, so that something is erased and left")
    return rank


class MomentsFitter:
    """Base of the fitters whose eraser is a function of `Moments`. Subclasses have a cached property `eraser`."""

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        device: str | torch.device | None,
        dtype: torch.dtype | None,
        svd_tol: float,
        rtol: float | None,
        track_xx: bool,
    ) -> None:
        if svd_tol <= 0:
            raise ValueError(f"svd_tol is {svd_tol}, but must be positive")
        if rtol is not None and not 0 < rtol < 1:
            raise ValueError(f"rtol is {rtol}, but must lie between 0 and 1")
        self.x_dim, self.z_dim = x_dim, z_dim
        self.svd_tol, self.rtol = svd_tol, rtol
        self.dtype = working_dtype(dtype or torch.get_default_dtype())
        self.eps = torch.finfo(self.dtype).eps
        self.moments = Moments(x_dim, z_dim, device=device, dtype=self.dtype, track_xx=track_xx)

    @classmethod
    def fit(cls, x: Tensor, z: Tensor, *, weight: Tensor | None = None, **options: Any) -> Self:
        """Fit on x `[n, d]`, z `[n]` or `[n, k]`, importance weights `[n]`."""
        if x.ndim != 2 or z.ndim == 0 or len(x) != len(z):
            raise ValueError(
                f"x has shape {list(x.shape)} and z {list(z.shape)}: give x [n, d], and z [n] or [n, k] of the same n"
            )
        z = concept_matrix(z)
        fitter = cls(x.shape[1], z.shape[1], device=x.device, dtype=x.dtype, **options)
        return fitter.update(x, z, weight=weight)

    def update(self, x: Tensor, z: Tensor, *, weight: Tensor | None = None) -> Self:
        """Add a batch: x `[..., d]`; z `[..., k]` or labels `[...]`; importance weights `[...]`.

        Integer features are taken as float32; data elsewhere are copied to the device of the statistics.

        Raises:
            ValueError: shapes do not fit, values are not finite, a label is out of range. Nothing is added then.
        """
        if self.z_dim > 1 and z.shape == x.shape[:-1]:
            z = concept_matrix(z.flatten(), self.z_dim)
        if z.numel() % self.z_dim:
            raise ValueError(f"z has shape {list(z.shape)}, but its last dimension must be {self.z_dim}")
        self.moments.update(x, z.reshape(-1, self.z_dim), None if weight is None else weight.flatten())
        self._forget()
        return self

    def merge(self, other: Self) -> Self:
        """Add the statistics of another fitter of the same kind and widths: as if its data had been seen here."""
        self.moments.merge(other.moments)
        self._forget()
        return self

    def all_reduce(self, group: "ProcessGroup | None" = None) -> Self:
        """Give every process of a `torch.distributed` group (the default one) the statistics of all of them."""
        self.moments.all_reduce(group)
        self._forget()
        return self

    def _forget(self) -> None:
        self.__dict__.pop("eraser", None)

    @property
    def n(self) -> Tensor:
        """Number of samples seen."""
        return torch.tensor(self.moments.count, device=self.moments.weight.device)

    @property
    def mean_x(self) -> Tensor:
        """`[d]`"""
        return self.moments.mean_x.to(self.dtype)

    @property
    def mean_z(self) -> Tensor:
        """`[k]`"""
        return self.moments.mean_z.to(self.dtype)

    @property
    def sigma_xz(self) -> Tensor:
        """Cov(x, z), `[d, k]`."""
        return self.moments.cov_xz().to(self.dtype)

    def keep(self, s: Tensor) -> Tensor:
        """Which of the singular values `s`, descending, are large enough to act on; a mask. Warns of what is not."""
        largest = float(s.max()) if len(s) else 0.0
        if self.rtol is not None:
            return s > max(self.rtol, self.eps) * largest
        kept = s > self.svd_tol
        # What is down at rounding noise is rightly left alone, and not worth a word.
        dropped = s[~kept & (s > 1e3 * self.eps * max(largest, 1e-300))]
        if len(dropped):
            warnings.warn(
                f"svd_tol={self.svd_tol} leaves {len(dropped)} of {len(s)} concept directions in place (largest "
                f"singular value {float(dropped.max()):.2g}): lower svd_tol, or set rtol for a relative tolerance",
                stacklevel=4,
            )
        return kept
