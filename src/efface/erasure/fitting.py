"""The common part of all fitters, which work from first and second moments: streaming, merging, tolerances."""

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from efface.erasure.frozen import FrozenTensors
from efface.erasure.inputs import (
    as_concept,
    as_rows,
    as_tensor,
    concept_rows,
    count_classes,
    is_integer,
    require_rows,
    weight_rows,
)
from efface.moments import Moments, WeightKind, as_matrix
from efface.processes import require_same
from efface.products import SparseRows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

E = TypeVar("E", bound=FrozenTensors)


class Fitter(ABC, Generic[E]):
    """Base of all fitters: a subclass keeps its statistics in `Moments`, and solves for its eraser.

    Threads may share a fitter: `update`, `merge`, on both fitters, and `eraser` take turns.
    """

    _statistics: Sequence[Moments]
    dtype: torch.dtype
    """Of the eraser: that of the data, at least float32."""

    @abstractmethod
    def __init__(
        self, x_dim: int, width: int, *, device: str | torch.device | None, dtype: torch.dtype | None, **options: Any
    ) -> None:
        """Make a fitter that has seen no data; `width` is the width of z, or the number of classes."""
        if x_dim < 1:
            raise ValueError(f"x_dim is {x_dim}, but x must have at least one column")
        self.x_dim = x_dim
        self._lock = threading.RLock()
        self._eraser: E | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    @classmethod
    def fit(cls, x: Any, z: Any, *, weight: Any = None, **options: Any) -> Self:
        """Fit on x `[n, d]`, z `[n]` (or `[n, k]`, if the fitter takes more than labels), importance weights `[n]`.

        Tensors, numpy arrays, pandas frames and lists are taken.

        Raises:
            ValueError: shapes do not fit, values are not finite, or an option is wrong.
        """
        x, z = cls._features(x), as_concept(z)
        require_rows(x, z)
        return cls(x.shape[1], cls._width(z), device=x.device, dtype=x.dtype, **options).update(x, z, weight=weight)

    @staticmethod
    def _features(x: Any) -> Tensor | SparseRows:
        """Read x `[n, d]`."""
        return as_tensor(x, "x")

    @staticmethod
    @abstractmethod
    def _width(z: Tensor) -> int:
        """Return the width of the concept z `[n]` or `[n, k]`, or its number of classes."""

    @abstractmethod
    def update(self, x: Any, z: Any, *, weight: Any = None) -> Self:
        """Add a batch: x `[..., d]`, a concept, importance weights `[...]`."""

    @abstractmethod
    def _solve(self) -> E:
        """Compute the eraser of the statistics so far."""

    @property
    def statistics(self) -> Sequence[Moments]:
        """All that is kept of the data."""
        return self._statistics

    @property
    def eraser(self) -> E:
        """The eraser of the statistics so far; computed once, anew after each `update`.

        Raises:
            ValueError: there are fewer than two samples.
        """
        with self._lock:
            if self._eraser is None:
                self._eraser = self._solve()
            return self._eraser

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
        # Always in the same order, so that two threads that merge two fitters into each other do not wait for ever.
        first, second = sorted((self, other), key=id)
        with first._lock, second._lock:
            pairs = list(zip(self._statistics, other._statistics, strict=True))
            for mine, theirs in pairs:
                mine.require_mergeable(theirs)
            for mine, theirs in pairs:
                mine.merge(theirs)
            self._eraser = None
        return self

    def all_reduce(self, group: "ProcessGroup | None" = None) -> Self:
        """Give every process of a `torch.distributed` group (the default one) the statistics of all of them.

        Raises:
            ValueError: the processes have other fitters, widths or dtypes; on every process. Nothing is changed then.
        """
        with self._lock:
            kinds = " and ".join(dict.fromkeys(map(str, self._statistics)))
            mine = f"a {type(self).__name__} of {len(self._statistics)} x {kinds}"
            require_same(mine, group, remedy="make the fitters of all processes with the same arguments")
            for moments in self._statistics:
                moments.all_reduce(group)
            self._eraser = None
        return self


class MomentsFitter(Fitter[E]):
    """Base of the fitters whose eraser is a function of the moments of x and a matrix z."""

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        device: str | torch.device | None,
        dtype: torch.dtype | None,
        svd_tol: float = 0.01,
        rtol: float | None,
        track_xx: bool,
        weights: WeightKind = "importance",
    ) -> None:
        super().__init__(x_dim, z_dim, device=device, dtype=dtype)
        if z_dim < 1:
            raise ValueError(f"z_dim is {z_dim}, but z must have at least one column")
        if svd_tol <= 0:
            raise ValueError(f"svd_tol is {svd_tol}, but must be positive")
        if rtol is not None and not 0 < rtol < 1:
            raise ValueError(f"rtol is {rtol}, but must lie between 0 and 1")
        self.moments = Moments(x_dim, z_dim, device=device, dtype=dtype, track_xx=track_xx, weights=weights)
        self._statistics, self.dtype = [self.moments], self.moments.dtype
        self.z_dim = z_dim
        self.svd_tol, self.rtol = svd_tol, rtol
        self.eps = torch.finfo(self.dtype).eps

    @staticmethod
    def _features(x: Any) -> Tensor | SparseRows:
        return as_rows(x)

    @staticmethod
    def _width(z: Tensor, name: str = "z") -> int:
        if is_integer(z) and (z.ndim == 1 or z.shape[1] == 1):
            classes = count_classes(z, name)
            return classes if classes > 2 else 1
        return 1 if z.ndim == 1 else z.shape[1]

    def update(self, x: Any, z: Any, *, weight: Any = None) -> Self:
        """Add a batch: tensors, numpy arrays, pandas frames or lists; x may be a sparse matrix of scipy `[n, d]`.

        Integer features are taken as float32; data elsewhere are copied to the device of the statistics.

        Args:
            x: `[..., d]`
            z: labels `[...]` or `[..., 1]`, or a matrix `[..., k]`; where k is 1, also numbers `[...]`.
            weight: importance weights `[...]`.

        Raises:
            ValueError: shapes do not fit, values are not finite, a label is out of range. Nothing is added then.
        """
        x, z = as_rows(x), as_concept(z)
        weight = None if weight is None else as_tensor(weight, "weight")
        rows = x if isinstance(x, SparseRows) else as_matrix(x, self.x_dim, "x")
        concept = concept_rows(x, z, self.z_dim)
        with self._lock:
            self.moments.update(rows, concept, weight_rows(x, weight))
            self._eraser = None
        return self

    @property
    def n(self) -> Tensor:
        """Number of samples seen."""
        return torch.tensor(self.moments.count, device=self.moments.device)

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

    @property
    def tolerance(self) -> float:
        """Of canonical correlations if `rtol` is set, never below their rounding; else of singular values."""
        return self.svd_tol if self.rtol is None else max(self.rtol, 10 * self.eps)

    def is_significant(self, s: Tensor) -> Tensor:
        """Mask the strengths `s` of concept directions, descending, that are large enough to act on.

        Warns of those between rounding noise and the tolerance, whose directions stay in place.

        Args:
            s: canonical correlations if `rtol` is set, or other numbers that are free of units; else singular values
                in the units of z.
        """
        if self.rtol is None:
            name, noise = f"svd_tol={self.svd_tol}", float(s.max()) if len(s) else 0.0
            cure = "lower svd_tol, or set rtol for a tolerance free of units"
        else:
            name, noise = f"rtol={self.rtol}", 1.0
            cure = "lower rtol"
        significant = s > self.tolerance
        # Values at the level of rounding noise are rightly left alone, and not worth a word.
        dropped = s[~significant & (s > 1e3 * self.eps * max(noise, 1e-300))]
        if len(dropped):
            warnings.warn(
                f"{name} leaves {len(dropped)} of {len(s)} concept directions in place (largest singular value "
                f"{float(dropped.max()):.2g}): {cure}",
                stacklevel=6,
            )
        return significant
