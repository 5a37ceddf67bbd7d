"""The common part of all fitters, which work from first and second moments: streaming, merging, tolerances, labels."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from efface.moments import Moments, WeightKind

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def concept_matrix(z: Tensor, k: int | None = None) -> Tensor:
    """Write a concept as a matrix `[n, k]`.

    Labels (integers or booleans) `[n]` become one-hot columns, or one column of 0 and 1 if they are binary and k is not
    given; anything else is taken as it is, `[n]` as one column.

    Args:
        z: `[n]` or `[n, k]`.
        k: width; taken from the largest label if None.

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
    """Return the labels `[n]` of a concept that is integers, booleans, a column of 0 and 1, or one-hot; else None."""
    z = z.flatten() if z.ndim == 2 and z.shape[1] == 1 else z
    if z.ndim == 1:
        are_labels = not (z.is_floating_point() or z.is_complex()) or bool(((z == 0) | (z == 1)).all())
        return z.long() if are_labels else None
    one_hot = bool(((z == 0) | (z == 1)).all()) and bool((z.sum(1) == 1).all())
    return z.long().argmax(1) if one_hot else None


def require_labels(x: Tensor, z: Tensor) -> Tensor:
    """Return the labels `[n]` of z, on the device of x.

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


def check_weight(weight: Tensor | None, x: Tensor) -> None:
    """Check importance weights `[n]` of x `[n, d]`; None stands for equal ones.

    Raises:
        TypeError: they are no tensor.
        ValueError: they are not one for each row, negative, not finite, or all zero.
    """
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight is a {type(weight).__name__}, but must be a tensor [{len(x)}], one for each sample")
    if weight.shape != (len(x),):
        raise ValueError(f"weight has shape {list(weight.shape)}, but must be [{len(x)}], one for each sample")
    if not bool((weight >= 0).all()) or not 0 < float(weight.sum()) < float("inf"):
        raise ValueError("weight has negative or non-finite values, or is all zero: give importance weights >= 0")


def check_rank(rank: int, x: Tensor) -> int:
    """Return `rank` if that many directions can be removed from x `[n, d]`.

    Raises:
        TypeError: it is not an integer.
        ValueError: unless 1 <= rank < d.
    """
    try:
        rank = index(rank)
    except TypeError:
        raise TypeError(f"rank is {rank!r}, but must be an integer: how many directions to remove") from None
    if not 1 <= rank < x.shape[1]:
        raise ValueError(f"rank is {rank}, but must lie in 1 … {x.shape[1] - 1}, so that something is erased and left")
    return rank


class Fitter(ABC):
    """Base of all fitters: a subclass keeps its statistics in `Moments`, and caches its property `eraser`."""

    _statistics: Sequence[Moments]
    dtype: torch.dtype
    """Of the eraser: that of the data, at least float32."""

    @abstractmethod
    def __init__(
        self, x_dim: int, width: int, *, device: str | torch.device | None, dtype: torch.dtype | None, **options: Any
    ) -> None:
        """Make a fitter that has seen no data; `width` is the width of z, or the number of classes."""

    @classmethod
    def fit(cls, x: Tensor, z: Tensor, *, weight: Tensor | None = None, **options: Any) -> Self:
        """Fit on x `[n, d]`, z `[n]` (or `[n, k]`, if the fitter takes more than labels), importance weights `[n]`.

        Raises:
            ValueError: shapes do not fit, values are not finite, or an option is wrong.
        """
        if x.ndim != 2 or z.ndim == 0 or len(x) != len(z):
            raise ValueError(
                f"x has shape {list(x.shape)} and z {list(z.shape)}: give x [n, d], and z [n] or [n, k] of the same n"
            )
        z, width = cls._concept(z)
        return cls(x.shape[1], width, device=x.device, dtype=x.dtype, **options).update(x, z, weight=weight)

    @staticmethod
    @abstractmethod
    def _concept(z: Tensor) -> tuple[Tensor, int]:
        """Return z as `update` takes it, and its width or number of classes."""

    @abstractmethod
    def update(self, x: Tensor, z: Tensor, *, weight: Tensor | None = None) -> Self:
        """Add a batch: x `[..., d]`, a concept, importance weights `[...]`."""

    def merge(self, other: Self) -> Self:
        """Add the statistics of another fitter of the same kind and widths, as if its data had been seen here.

        Raises:
            ValueError: the other was made with other widths or options. Nothing is added then.
        """
        if len(self._statistics) != len(other._statistics):
            raise ValueError(
                f"other was made for {len(other._statistics)} classes, but this fitter for {len(self._statistics)}: "
                "make both with the same arguments"
            )
        pairs = list(zip(self._statistics, other._statistics, strict=True))
        for mine, theirs in pairs:
            mine.require_mergeable(theirs)
        for mine, theirs in pairs:
            mine.merge(theirs)
        self._forget()
        return self

    def all_reduce(self, group: "ProcessGroup | None" = None) -> Self:
        """Give every process of a `torch.distributed` group (the default one) the statistics of all of them."""
        for moments in self._statistics:
            moments.all_reduce(group)
        self._forget()
        return self

    def _forget(self) -> None:
        self.__dict__.pop("eraser", None)


class MomentsFitter(Fitter):
    """Base of the fitters whose eraser is a function of the moments of x and a matrix z."""

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
        weights: WeightKind = "importance",
    ) -> None:
        if svd_tol <= 0:
            raise ValueError(f"svd_tol is {svd_tol}, but must be positive")
        if rtol is not None and not 0 < rtol < 1:
            raise ValueError(f"rtol is {rtol}, but must lie between 0 and 1")
        self.moments = Moments(x_dim, z_dim, device=device, dtype=dtype, track_xx=track_xx, weights=weights)
        self._statistics, self.dtype = [self.moments], self.moments.dtype
        self.x_dim, self.z_dim = x_dim, z_dim
        self.svd_tol, self.rtol = svd_tol, rtol
        self.eps = torch.finfo(self.dtype).eps

    @staticmethod
    def _concept(z: Tensor) -> tuple[Tensor, int]:
        matrix = concept_matrix(z)
        return matrix, matrix.shape[1]

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

    def is_significant(self, s: Tensor) -> Tensor:
        """Mask the singular values `s`, descending, that are large enough to act on.

        Warns of those between rounding noise and `svd_tol`, whose directions stay in place.
        """
        largest = float(s.max()) if len(s) else 0.0
        if self.rtol is not None:
            return s > max(self.rtol, self.eps) * largest
        significant = s > self.svd_tol
        # Values at the level of rounding noise are rightly left alone, and not worth a word.
        dropped = s[~significant & (s > 1e3 * self.eps * max(largest, 1e-300))]
        if len(dropped):
            warnings.warn(
                f"svd_tol={self.svd_tol} leaves {len(dropped)} of {len(s)} concept directions in place (largest "
                f"singular value {float(dropped.max()):.2g}): lower svd_tol, or set rtol for a relative tolerance",
                stacklevel=6,
            )
        return significant
