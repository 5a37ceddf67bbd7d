"""Streaming, mergeable, weighted first and second moments of a pair (x, z).

These are all the statistics that an eraser needs: n, the means, Cov(x), Cov(x, z) and Cov(z). Batches may come in any
number and order, and two accumulators merge exactly. Labels are counted: of k classes n counts and k sums of x are
kept, and Cov(z) = diag(π) − ππᵀ is not stored.

Products of a batch are formed in the working dtype (float32 unless the data are wider), which is where the time goes;
they are summed in float64, so that a state of a billion samples still registers a batch. A fixed shift, the mean of the
first batch, is subtracted first: without it, data whose mean is large against their spread lose their covariance to
cancellation (Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983, eq. 1.3 and 2.1).
"""

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from efface.processes import as_real, require_same
from efface.products import Batch, SparseRows, checked_weights

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WeightKind = Literal["importance", "frequency"]
"""What a weight means. `importance`: how much a sample counts; n samples of unequal weight are worth fewer than n.
`frequency`: how often a sample was seen; the weights sum to the number of samples."""

_SHIFT_ROWS = 512
_ALL = slice(None)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which products of such data are formed: at least float32; complex stays complex."""
    return torch.promote_types(dtype, torch.float32)


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which sums are kept: float64, or complex128 for complex data."""
    return torch.promote_types(dtype, torch.float64)


def as_numbers(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` as it is, or in `dtype` if it holds integers or booleans, which no eraser can move by a fraction."""
    return x if x.is_floating_point() or x.is_complex() else x.to(dtype)


def as_matrix(x: Tensor, dim: int, name: str) -> Tensor:
    """Flatten `x` of shape `[..., dim]` to `[n, dim]`.

    Raises:
        ValueError: the last dimension is not `dim`; the message begins with `name`.
    """
    if x.ndim == 0 or x.shape[-1] != dim:
        raise ValueError(f"{name} has shape {list(x.shape)}, but its last dimension must be {dim}")
    return x.reshape(math.prod(x.shape[:-1]), dim)


def require_finite(x: Tensor, name: str) -> None:
    """Check that a matrix `[n, d]` is finite.

    Raises:
        ValueError: it holds NaN or infinite values; the message says how many, and where the first is.
    """
    if bool(torch.isfinite(x.sum())):  # a sum is finite unless a term is not, or it overflows
        return
    bad = ~torch.isfinite(x)
    count = int(bad.sum())
    if count:
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name} has {count} NaN or infinite values, the first in row {row}, column {column}: "
            "drop or impute those rows first"
        )


def require_classes(z: Tensor, k: int, name: str = "z") -> None:
    """Check labels.

    Raises:
        ValueError: a label is not in 0 … k − 1; the message begins with `name`.
    """
    if torch.compiler.is_compiling():  # a trace has no values
        return
    low, high = (int(z.min()), int(z.max())) if z.numel() else (0, 0)
    if low < 0 or high >= k:
        raise ValueError(f"{name} has labels from {low} to {high}, but they must lie in 0 … {k - 1}")


class Moments:
    """Accumulates the weighted moments of x `[n, x_dim]` and z `[n, z_dim]`.

    Args:
        x_dim: width of x.
        z_dim: width of z; 0 if only x matters.
        device: where the sums are kept.
        dtype: dtype of the data; products are formed in it, or in float32 if it is narrower.
        track_xx: keep Cov(x), which costs O(n x_dim²). Without it, variances alone are kept, and an update costs
            O(n x_dim z_dim), of labels O(n x_dim).
        weights: what the weights mean; see `WeightKind`.

    Memory: 8 x_dim² bytes for Cov(x), 8 x_dim z_dim for Cov(x, z), and 8 z_dim² for Cov(z) unless z is labels; while a
    batch is added, x_dim² numbers of the working dtype and 8 MiB.
    """

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        track_xx: bool = True,
        weights: WeightKind = "importance",
    ) -> None:
        if weights not in ("importance", "frequency"):
            raise ValueError(f"weights is {weights!r}, but must be 'importance' or 'frequency'")
        self.x_dim, self.z_dim, self.weights = x_dim, z_dim, weights
        self.dtype = working_dtype(dtype or torch.get_default_dtype())
        self.count = 0
        """Number of samples seen."""
        sums = accumulator_dtype(self.dtype)
        self.weight = torch.zeros((), device=device, dtype=torch.float64)
        """Sum of the weights: n if there are none."""
        self.weight_sq = torch.zeros_like(self.weight)
        """Sum of the squared importance weights; of the weights themselves if they are frequencies."""
        self._shift_x = torch.zeros(x_dim, device=device, dtype=self.dtype)
        self._shift_z = torch.zeros(z_dim, device=device, dtype=self.dtype)
        self._sum_x = torch.zeros(x_dim, device=device, dtype=sums)
        self._sum_z = torch.zeros(z_dim, device=device, dtype=sums)
        # Only the upper block triangle of _xx is meaningful until `cov_xx` mirrors it.
        self._xx = torch.zeros(x_dim, x_dim, device=device, dtype=sums) if track_xx else None
        self._squares = None if track_xx else torch.zeros(x_dim, device=device, dtype=torch.float64)
        self._zx = torch.zeros(z_dim, x_dim, device=device, dtype=sums)
        # None as long as z was labels: then Σ(z, z) is diagonal, and its diagonal is _sum_z.
        self._zz: Tensor | None = None

    def __str__(self) -> str:
        covariance = "without" if self._xx is None else "with"
        return f"moments of {self.x_dim} x {self.z_dim}, {self.dtype}, {covariance} Cov(x), {self.weights} weights"

    @torch.no_grad()
    def update(self, x: Tensor | SparseRows, z: Tensor, weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            x: `[n, x_dim]`; of a sparse matrix the sums are formed without its zeros.
            z: `[n, z_dim]`, or labels `[n]` in 0 … z_dim − 1, which stand for their one-hot columns.
            weight: `[n]`; all 1 if None.

        Raises:
            ValueError: shapes do not fit, values are not finite, a label is out of range, a weight is negative, or the
                squares of values leave the range of float64. The sums are then unchanged.
        """
        if isinstance(x, Tensor):
            x = as_matrix(x, self.x_dim, "x").to(self.device, self.dtype)
        elif x.shape[1] != self.x_dim:
            raise ValueError(f"x has shape {list(x.shape)}, but its last dimension must be {self.x_dim}")
        z = self._concept(z)
        if len(x) != len(z):
            raise ValueError(f"x has {len(x)} samples but z has {len(z)}: give one row of z for each row of x")
        weight = None if weight is None else checked_weights(weight, len(x)).to(x.device, torch.float64)
        if len(x) == 0:
            return
        if isinstance(x, SparseRows):
            self._add_sparse(x, z, weight)
            return
        shift_x, shift_z = self._shift_x, self._shift_z
        if self.count == 0:
            # Any shift near the mean will do; it is fixed from here on. Labels are counted, and need none.
            shift_x = self._mean_of_first(x)
            shift_z = self._mean_of_first(z) if z.ndim == 2 else torch.zeros_like(shift_z)
        batch = Batch(x, z, weight, self.z_dim, shift_x, shift_z, self._xx is not None)
        batch, present = batch.of_present()
        sums = batch.sums(self._zx.dtype)
        if sums is None:
            require_finite(x, "x")
            require_finite(z, "z")
            raise ValueError(batch.out_of_range())
        self._shift_x, self._shift_z = shift_x, shift_z
        if z.ndim == 2 and self._zz is None:
            self._zz = torch.diag(self._sum_z)
        for name, value in sums.items():
            total = getattr(self, name)
            if present is not None and name in ("_sum_z", "_zx"):
                total.index_add_(0, present, value.to(total.dtype))
            else:
                total.add_(value)
        self._add_samples(len(x), weight)

    def _add_samples(self, n: int, weight: Tensor | None) -> None:
        """Count n samples of these weights."""
        self.count += n
        total = n if weight is None else weight.sum()
        self.weight += total
        self.weight_sq += total if weight is None or self.weights == "frequency" else weight.square().sum()

    def _add_sparse(self, x: SparseRows, z: Tensor, weight: Tensor | None) -> None:
        """Add a batch whose sums are formed about zero."""
        if z.ndim == 2:
            require_finite(z, "z")
        device, dtype, weights = self.device, self.dtype, self.weights
        batch = Moments(
            self.x_dim, self.z_dim, device=device, dtype=dtype, track_xx=self._xx is not None, weights=weights
        )
        for name, value in x.sums(z, weight, self.z_dim, track_xx=self._xx is not None).items():
            setattr(batch, name, value.to(device))
        batch._add_samples(len(x), weight)
        self.merge(batch)

    def _concept(self, z: Tensor) -> Tensor:
        """Return z as a matrix, or as labels as long as only labels were seen."""
        if z.ndim != 1 or z.is_floating_point() or z.is_complex() or self.z_dim == 0:
            return as_matrix(z, self.z_dim, "z").to(self.device, self.dtype)
        require_classes(z, self.z_dim)
        z = z.to(self.device, torch.int64)
        return z if self._zz is None else functional.one_hot(z, self.z_dim).to(self.dtype)

    def _mean_of_first(self, x: Tensor) -> Tensor:
        return x[:_SHIFT_ROWS].to(self._zx.dtype).mean(0).to(self.dtype)

    def require_mergeable(self, other: "Moments") -> None:
        """Check that `merge(other)` is possible.

        Raises:
            ValueError: the two were made with other widths, `track_xx` or `weights`.
        """
        mine, theirs = ((m.x_dim, m.z_dim, m._xx is None, m.weights) for m in (self, other))
        if mine != theirs:
            raise ValueError(
                f"cannot merge moments of {other.x_dim} x {other.z_dim} into moments of {self.x_dim} x {self.z_dim}"
                " that track other sums: make both with the same arguments"
            )

    @torch.no_grad()
    def merge(self, other: "Moments") -> None:
        """Add the samples of another accumulator, exactly as if they had been seen here.

        Raises:
            ValueError: the two were made with other widths, `track_xx` or `weights`. Nothing is added then.
        """
        self.require_mergeable(other)
        if self.count == 0:
            self._shift_x = other._shift_x.to(self.device, self.dtype)
            self._shift_z = other._shift_z.to(self.device, self.dtype)
        labels = self.has_labels and other.has_labels
        self._zz = None if labels else self._dense_zz()
        for name, value in other._sums(self._shift_x, self._shift_z, labels=labels).items():
            getattr(self, name).add_(value.to(self.device))
        self.count += other.count

    @torch.no_grad()
    def all_reduce(self, group: "ProcessGroup | None" = None) -> None:
        """Make every process of a `torch.distributed` group hold the moments of the samples of all of them.

        Args:
            group: a process group; the default one if None. All of its processes must call this.

        Raises:
            ValueError: they were made with other arguments; on every process. Nothing is changed then.
        """
        from torch import distributed

        require_same(str(self), group, remedy="make them with the same arguments")
        # One shift for all: that of the first process that has seen anything.
        state = torch.tensor([self.count, int(self.has_labels)], device=self.device)
        states = [torch.zeros_like(state) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(states, state, group=group)
        counts, labels = [int(s[0]) for s in states], all(bool(s[1]) for s in states)
        source = next((rank for rank, n in enumerate(counts) if n > 0), 0)
        shifts = [self._shift_x.clone(), self._shift_z.clone()]
        for shift in shifts:
            distributed.broadcast(as_real(shift), group_src=source, group=group)
        for name, value in self._sums(*shifts, labels=labels).items():
            summed = value.clone()
            distributed.all_reduce(as_real(summed), group=group)
            setattr(self, name, summed)
        self._shift_x, self._shift_z = shifts
        self.count = sum(counts)

    def _sums(self, shift_x: Tensor, shift_z: Tensor, *, labels: bool) -> dict[str, Tensor]:
        """Convert all sums to other shifts: Σ w (u + a)ᴴ(v + b), with a and b the differences of the shifts.

        Args:
            shift_x: `[x_dim]`
            shift_z: `[z_dim]`
            labels: leave Σ(z, z) out, which the counts of labels give.
        """
        dtype = self._sum_x.dtype
        a = (self._shift_x.to(dtype) - shift_x.to(self.device, dtype)).reshape(1, -1)
        b = (self._shift_z.to(dtype) - shift_z.to(self.device, dtype)).reshape(1, -1)
        n, sum_x, sum_z = self.weight, self._sum_x[None], self._sum_z[None]
        sums = {
            "weight": n,
            "weight_sq": self.weight_sq,
            "_sum_x": (sum_x + n * a)[0],
            "_sum_z": (sum_z + n * b)[0],
            "_zx": self._zx + b.mH @ sum_x + sum_z.mH @ a + n * (b.mH @ a),
        }
        if not labels:
            sums["_zz"] = self._dense_zz() + sum_z.mH @ b + b.mH @ sum_z + n * (b.mH @ b)
        if self._xx is not None:
            sums["_xx"] = self._xx + sum_x.mH @ a + a.mH @ sum_x + n * (a.mH @ a)
        if self._squares is not None:
            sums["_squares"] = self._squares + (2 * (a.conj() * sum_x).real + n * a.abs().square())[0]
        return sums

    def _dense_zz(self) -> Tensor:
        return torch.diag(self._sum_z) if self._zz is None else self._zz

    @property
    def device(self) -> torch.device:
        """Where the sums are kept."""
        return self._zx.device

    @property
    def has_labels(self) -> bool:
        """Whether z was labels in every batch so far, so that Cov(z) = diag(π) − ππᵀ with π = `mean_z`."""
        return self._zz is None

    @property
    def n_eff(self) -> float:
        """Kish's effective sample size, (Σw)² / Σw²; without weights, or with frequencies, the number of samples."""
        return float(self.weight.square() / self.weight_sq) if self.weight > 0 else 0.0

    @property
    def mean_x(self) -> Tensor:
        """`[x_dim]`, float64 (complex128)."""
        return self._shift_x + self._sum_x / self._total()

    @property
    def mean_z(self) -> Tensor:
        """`[z_dim]`, float64 (complex128)."""
        return self._shift_z + self._sum_z / self._total()

    def cov_xx(self, *, unbiased: bool = True) -> Tensor:
        """Return Cov(x) = E[(x−μ)ᴴ(x−μ)], `[x_dim, x_dim]`, Hermitian, float64.

        Args:
            unbiased: divide by Σw − Σw²/Σw (n − 1 without weights), else by Σw.
        """
        upper = self.cov_xx_upper(unbiased=unbiased)
        return upper + upper.triu(1).mH

    def cov_xx_upper(self, *, unbiased: bool = True) -> Tensor:
        """Return the upper triangle of `cov_xx`, zero below: half the work where only a Cholesky factor is needed."""
        if self._xx is None:
            raise ValueError("Cov(x) was not tracked: make Moments with track_xx=True")
        mean, divisor = (self._sum_x / self._total())[None], self._divisor(unbiased)
        upper = torch.addmm(self._xx, mean.mH, mean, beta=float(1 / divisor), alpha=-float(self.weight / divisor))
        return upper.triu_()

    def cov_xz(self, *, unbiased: bool = True, columns: slice = _ALL) -> Tensor:
        """Return Cov(x, z) = E[(x−μ)ᴴ(z−ν)], `[x_dim, z_dim]`, float64; of many classes, some `columns` at a time."""
        mean_x, mean_z = (self._sum_x / self._total())[None], (self._sum_z[columns] / self._total())[None]
        covariance = torch.addmm(self._zx[columns], mean_z.mH, mean_x, alpha=-float(self.weight))
        return covariance.div_(self._divisor(unbiased)).mH

    def cov_zz(self, *, unbiased: bool = True) -> Tensor:
        """Return Cov(z) = E[(z−ν)ᴴ(z−ν)], `[z_dim, z_dim]`, Hermitian, float64."""
        mean = (self._sum_z / self._total())[None]
        return (self._dense_zz() - self.weight * (mean.mH @ mean)) / self._divisor(unbiased)

    def var_x(self, *, unbiased: bool = True) -> Tensor:
        """Return the diagonal of `cov_xx`, `[x_dim]`, real, at the cost of O(x_dim), also without `track_xx`."""
        squares = self._squares if self._xx is None else self._xx.diagonal().real
        assert squares is not None
        mean = self._sum_x / self._total()
        centred = squares - self.weight * mean.abs().square()
        return (centred / self._divisor(unbiased)).clamp_min(0)

    def var_z(self, *, unbiased: bool = True) -> Tensor:
        """Return the diagonal of `cov_zz`, `[z_dim]`, real, at the cost of O(z_dim)."""
        squares = self._sum_z if self._zz is None else self._zz.diagonal()
        mean = self._sum_z / self._total()
        return ((squares.real - self.weight * mean.abs().square()) / self._divisor(unbiased)).clamp_min(0)

    @property
    def bessel(self) -> float:
        """The factor by which unbiased covariances are larger than those that divide by Σw."""
        return float(self.weight / self._divisor(unbiased=True))

    def _total(self) -> Tensor:
        if self.weight <= 0:
            raise ValueError("no samples yet: call update() with at least one sample of positive weight")
        return self.weight

    def _divisor(self, unbiased: bool) -> Tensor:
        n = self._total()
        if not unbiased:
            return n
        if self.n_eff <= 1 + 1e-12:
            raise ValueError("a covariance needs at least two samples: call update() with more data")
        return n - self.weight_sq / n
