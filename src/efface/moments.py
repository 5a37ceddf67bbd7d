"""Streaming, mergeable, weighted first and second moments of a pair (x, z).

These are all the statistics that an eraser needs: n, the means, Cov(x), Cov(x, z) and Cov(z). Batches may come in any
number and order, and two accumulators merge exactly.

Products of a batch are formed in the working dtype (float32 unless the data are wider), which is where the time goes;
they are summed in float64, so that a state of a billion samples still registers a batch. A fixed shift, the mean of the
first batch, is subtracted first: without it, data whose mean is large against their spread lose their covariance to
cancellation (Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983, eq. 1.3 and 2.1).
"""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WeightKind = Literal["importance", "frequency"]
"""What a weight means. `importance`: how much a sample counts; n samples of unequal weight are worth fewer than n.
`frequency`: how often a sample was seen; the weights sum to the number of samples."""

# Σ is symmetric: only the upper block triangle is formed, in block rows, over chunks of rows. Measured in turn against
# one `x.T @ x`, n = 20,000, everything included: 1.4 times its time at d = 256, .9 at 768, .8 at 2,048. Chunks of half
# a megabyte to two, and of 32, are up to a fifth slower. Fewer than _BLOCKED_FROM columns are one product.
_BLOCKED_FROM = 256
_CHUNK_BYTES = 8 << 20
_SHIFT_ROWS = 512


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
    return x.reshape(x.shape[:-1].numel(), dim)


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


def _checked_weight(weight: Tensor, n: int) -> Tensor:
    if weight.shape != (n,):
        raise ValueError(f"weight has shape {list(weight.shape)}, but must be [{n}], one for each sample")
    if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
        raise ValueError("weight has negative or non-finite values: importance weights are >= 0")
    return weight


def _as_real(x: Tensor) -> Tensor:
    """View complex numbers as pairs of real ones, which every backend of torch.distributed can send."""
    return torch.view_as_real(x) if x.is_complex() else x


class Moments:
    """Accumulates the weighted moments of x `[n, x_dim]` and z `[n, z_dim]`.

    Args:
        x_dim: width of x.
        z_dim: width of z; 0 if only x matters.
        device: where the sums are kept.
        dtype: dtype of the data; products are formed in it, or in float32 if it is narrower.
        track_xx: keep Cov(x), which costs O(n x_dim²). Without it an update costs O(n x_dim z_dim).
        weights: what the weights mean; see `WeightKind`.

    Memory: 8 x_dim² bytes for Cov(x); while a batch is added, x_dim² numbers of the working dtype and 8 MiB.
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
        self._xz = torch.zeros(x_dim, z_dim, device=device, dtype=sums)
        self._zz = torch.zeros(z_dim, z_dim, device=device, dtype=sums)

    @torch.no_grad()
    def update(self, x: Tensor, z: Tensor, weight: Tensor | None = None) -> None:
        """Add a batch: x `[n, x_dim]`, z `[n, z_dim]`, weights `[n]` (all 1 if None).

        Raises:
            ValueError: shapes do not fit, values are not finite, or a weight is negative. The sums are then unchanged.
        """
        x = as_matrix(x, self.x_dim, "x").to(self._xz.device, self.dtype)
        z = as_matrix(z, self.z_dim, "z").to(self._xz.device, self.dtype)
        if len(x) != len(z):
            raise ValueError(f"x has {len(x)} samples but z has {len(z)}: give one row of z for each row of x")
        weight = None if weight is None else _checked_weight(weight, len(x)).to(x.device, torch.float64)
        if len(x) == 0:
            return
        if self.count == 0:
            # Any shift near the mean will do; it is fixed from here on.
            shift_x, shift_z = x[:_SHIFT_ROWS].mean(0), z[:_SHIFT_ROWS].mean(0)
        else:
            shift_x, shift_z = self._shift_x, self._shift_z
        batch_sums = self._products(x, z, weight, shift_x, shift_z)
        # Sums are finite unless a term is not: no pass of its own over the data.
        if not all(bool(torch.isfinite(batch_sums[name]).all()) for name in ("_sum_x", "_sum_z")):
            require_finite(x, "x")
            require_finite(z, "z")
        self._shift_x, self._shift_z = shift_x, shift_z
        for name, value in batch_sums.items():
            getattr(self, name).add_(value)
        self.count += len(x)
        self.weight += len(x) if weight is None else weight.sum()
        if weight is None:
            self.weight_sq += len(x)
        else:
            self.weight_sq += weight.sum() if self.weights == "frequency" else weight.square().sum()

    def _products(
        self, x: Tensor, z: Tensor, weight: Tensor | None, shift_x: Tensor, shift_z: Tensor
    ) -> dict[str, Tensor]:
        """Sum the shifted batch and its products, in the working dtype, over chunks that fit in a cache."""
        d, k = self.x_dim, self.z_dim
        # z and a column of ones side by side: one product gives Σ(z, x) and the sums of x, another those of z. With the
        # short side first BLAS is several times faster than for Σ(x, z).
        sum_z1x, sum_z1z = x.new_zeros(k + 1, d), x.new_zeros(k + 1, k)
        xx = x.new_zeros(d, d) if self._xx is not None else None
        rows = max(_CHUNK_BYTES // (max(d, 1) * x.element_size()), 512)
        columns = d if d < _BLOCKED_FROM else 256 if d < 4096 else 512
        for start in range(0, len(x), rows):
            u, v = x[start : start + rows] - shift_x, z[start : start + rows] - shift_z
            v1 = torch.cat([v, v.new_ones(len(v), 1)], 1)
            wu = u
            if weight is not None:
                w = weight[start : start + rows].to(x.dtype)[:, None]
                v1 = w * v1
                wu = w * u if xx is not None else u
            sum_z1x.addmm_(v1.mH, u)
            sum_z1z.addmm_(v1.mH, v)
            if xx is not None:
                for i in range(0, d, columns):
                    xx[i : i + columns, i:].addmm_(wu[:, i : i + columns].mH, u[:, i:])
        sums = {"_sum_x": sum_z1x[k], "_sum_z": sum_z1z[k], "_xz": sum_z1x[:k].mH, "_zz": sum_z1z[:k]}
        return sums if xx is None else {**sums, "_xx": xx}

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
        device = self._xz.device
        if self.count == 0:
            self._shift_x, self._shift_z = other._shift_x.to(device, self.dtype), other._shift_z.to(device, self.dtype)
        for name, value in other._sums(self._shift_x, self._shift_z).items():
            getattr(self, name).add_(value.to(device))
        self.count += other.count

    @torch.no_grad()
    def all_reduce(self, group: "ProcessGroup | None" = None) -> None:
        """Make every process of a `torch.distributed` group hold the moments of the samples of all of them.

        Args:
            group: a process group; the default one if None. All of its processes must call this.
        """
        from torch import distributed

        # One shift for all: that of the first process that has seen anything.
        count = torch.tensor(self.count, device=self._xz.device)
        counts = [torch.zeros_like(count) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(counts, count, group=group)
        source = next((rank for rank, n in enumerate(counts) if n > 0), 0)
        shifts = [self._shift_x.clone(), self._shift_z.clone()]
        for shift in shifts:
            distributed.broadcast(_as_real(shift), group_src=source, group=group)
        for name, value in self._sums(*shifts).items():
            summed = value.clone()
            distributed.all_reduce(_as_real(summed), group=group)
            setattr(self, name, summed)
        self._shift_x, self._shift_z = shifts
        self.count = int(sum(counts))

    def _sums(self, shift_x: Tensor, shift_z: Tensor) -> dict[str, Tensor]:
        """Convert all sums to other shifts: Σ w (u + a)ᴴ(v + b), with a and b the differences of the shifts."""
        device, dtype = self._xz.device, self._sum_x.dtype
        a = (self._shift_x.to(dtype) - shift_x.to(device, dtype)).reshape(1, -1)
        b = (self._shift_z.to(dtype) - shift_z.to(device, dtype)).reshape(1, -1)
        n, sum_x, sum_z = self.weight, self._sum_x[None], self._sum_z[None]
        sums = {
            "weight": n,
            "weight_sq": self.weight_sq,
            "_sum_x": (sum_x + n * a)[0],
            "_sum_z": (sum_z + n * b)[0],
            "_xz": self._xz + sum_x.mH @ b + a.mH @ sum_z + n * (a.mH @ b),
            "_zz": self._zz + sum_z.mH @ b + b.mH @ sum_z + n * (b.mH @ b),
        }
        if self._xx is not None:
            sums["_xx"] = self._xx + sum_x.mH @ a + a.mH @ sum_x + n * (a.mH @ a)
        return sums

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

    def cov_xz(self, *, unbiased: bool = True) -> Tensor:
        """Return Cov(x, z) = E[(x−μ)ᴴ(z−ν)], `[x_dim, z_dim]`, float64."""
        mean_x, mean_z = (self._sum_x / self._total())[None], (self._sum_z / self._total())[None]
        return (self._xz - self.weight * (mean_x.mH @ mean_z)) / self._divisor(unbiased)

    def cov_zz(self, *, unbiased: bool = True) -> Tensor:
        """Return Cov(z) = E[(z−ν)ᴴ(z−ν)], `[z_dim, z_dim]`, Hermitian, float64."""
        mean = (self._sum_z / self._total())[None]
        return (self._zz - self.weight * (mean.mH @ mean)) / self._divisor(unbiased)

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
