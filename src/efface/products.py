"""Sums of the products of one batch of (x, z): in chunks that fit in a cache, and without over- or underflow."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Σ is symmetric: only the upper block triangle is formed, in block rows, over chunks of rows. Measured in turn against
# one `x.T @ x`, n = 20,000, everything included: 1.4 times its time at d = 256, .9 at 768, .8 at 2,048. Chunks of half
# a megabyte to two, and of 32, are up to a fifth slower. Fewer than _BLOCKED_FROM columns are one product.
_BLOCKED_FROM = 256
_CHUNK_BYTES = 8 << 20
# So many rows are summed in the working dtype, and then in float64: without it the error grows with the rows.
_PART_ROWS = 16_384
# Products with few columns, and sums of a class, are added up row by row, whose rounding grows with the rows too (5e-6
# at 16,384): so many at a time, and then in float64, which costs nothing. From _WIDE_FROM columns BLAS works in blocks.
_SUMMED_ROWS = 512
_WIDE_FROM = 128

Sums = dict[str, Tensor]


def checked_weights(weight: Tensor, n: int) -> Tensor:
    """Return the weights of n samples.

    Raises:
        ValueError: they are not `[n]`, negative, not finite, or their squares overflow.
    """
    if weight.shape != (n,):
        raise ValueError(f"weight has shape {list(weight.shape)}, but must be [{n}], one for each sample")
    if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
        raise ValueError("weight has negative or non-finite values: importance weights are >= 0")
    if not bool(torch.isfinite(weight.double().square().sum())):
        raise ValueError("weight has values so large that their squares overflow: scale them to about 1 first")
    return weight


@dataclass(frozen=True)
class Batch:
    """Samples, weights, and the shifts that are subtracted before products are formed.

    Labels of more classes than there are samples take memory for the classes that occur, and one sum for each class.
    """

    x: Tensor
    """`[n, d]`, n > 0"""
    z: Tensor
    """`[n, k]`, or labels `[n]` int64, whose shift is 0"""
    weight: Tensor | None
    """`[n]` float64"""
    classes: int
    """k"""
    shift_x: Tensor
    shift_z: Tensor
    track_xx: bool

    def sums(self, wide: torch.dtype) -> Sums | None:
        """Return Σ(x), Σ(z), Σ(z, x) `[k, d]`, Σ(z, z) unless z is labels, and of x the squares or all products.

        The squares are Σ|x|² `[d]`; all products, where they are asked for, Σ(x, x), of which upper blocks only.
        Products are formed in the dtype of x, but in `wide` where they would leave its range.

        Returns:
            The sums; None if they leave the range of `wide` too, or hold NaN.
        """
        total: Sums = {}
        for start in range(0, len(self.x), _PART_ROWS):
            part, present = self._rows(start, start + _PART_ROWS).of_present()
            sums = part._products(self.x.dtype)
            if not part._in_range(sums, self.x.dtype):
                sums = part._products(wide)
                if not part._in_range(sums, wide):
                    return None
            if present is None and len(part.x) == len(self.x):
                return sums
            self._add(total, sums, present, wide)
        return total

    def out_of_range(self) -> str:
        """Say which columns of x have squares outside the range of float64, else that z or the weights have."""
        size = (self.x - self.shift_x).abs().amax(0).double()
        limits = torch.finfo(torch.float64)
        bad = (size > limits.max**0.45) | ((size > 0) & (size < limits.tiny**0.45))
        if bad.any():
            name = f"x has values of size {float(size[bad][0]):.1g} in column {int(bad.nonzero()[0])}"
        else:
            name = "z has values" if self.weight is None else "z or weight has values"
        return f"{name} so large or small that products leave the range of float64: scale them to about 1 first"

    def _rows(self, start: int, stop: int) -> "Batch":
        if start == 0 and stop >= len(self.x):
            return self
        weight = None if self.weight is None else self.weight[start:stop]
        return replace(self, x=self.x[start:stop], z=self.z[start:stop], weight=weight)

    def of_present(self) -> tuple["Batch", Tensor | None]:
        """Number the classes that occur from 0, if there are more classes than samples; return them too."""
        if self.z.ndim == 2 or self.classes <= len(self.x):
            return self, None
        present, z = self.z.unique(return_inverse=True)
        return replace(self, z=z, classes=len(present)), present

    def _add(self, total: Sums, sums: Sums, present: Tensor | None, dtype: torch.dtype) -> None:
        """Add the sums of a part, whose classes are `present` if that is not None, to `total` in `dtype`."""
        for name, value in sums.items():
            wide = torch.promote_types(value.dtype, dtype)
            places = present if name in ("_sum_z", "_zx") else None
            if places is not None:
                if name not in total:
                    total[name] = value.new_zeros((self.classes, *value.shape[1:]), dtype=wide)
                total[name].index_add_(0, places, value.to(wide))
            elif name in total:
                total[name].add_(value)
            else:
                total[name] = value.to(wide)

    def _products(self, dtype: torch.dtype) -> Sums:
        """Sum the products, formed in `dtype`."""
        d = self.x.shape[1]
        exact = torch.promote_types(dtype, torch.float64) if d < _WIDE_FROM else dtype
        xx = self.x.new_zeros(d, d, dtype=exact) if self.track_xx else None
        columns = d if d < _BLOCKED_FROM else 256 if d < 4096 else 512
        rows = max(_CHUNK_BYTES // (max(d, 1) * dtype.itemsize), 512)
        total: Sums = {}
        for start in range(0, len(self.x), rows):
            chunk = self._rows(start, start + rows)
            u = chunk.x.to(dtype) - self.shift_x.to(dtype)
            w = None if chunk.weight is None else chunk.weight.to(dtype)[:, None]
            wu = u if w is None else w * u
            if xx is not None and d < _WIDE_FROM:
                xx.add_(_in_blocks(wu, u))
            elif xx is not None:
                for i in range(0, d, columns):
                    xx[i : i + columns, i:].addmm_(wu[:, i : i + columns].mH, u[:, i:])
            chunk, present = chunk.of_present()
            sums = chunk._class_sums(wu, w) if chunk.z.ndim == 1 else chunk._concept_sums(u, w)
            if xx is None:
                sums["_squares"] = _squares(wu, u)
            if present is None and not total:
                total = sums
            else:
                self._add(total, sums, present, dtype)
        return total if xx is None else {**total, "_xx": xx}

    def _concept_sums(self, u: Tensor, w: Tensor | None) -> Sums:
        """Sum the products of z `[n, k]`, and x and z themselves."""
        k = self.classes
        v = self.z.to(u.dtype) - self.shift_z.to(u.dtype)
        # z and a column of ones side by side: one product gives Σ(z, x) and the sums of x, another those of z. With the
        # short side first BLAS is several times faster than for Σ(x, z).
        v1 = torch.cat([v, v.new_ones(len(v), 1)], 1)
        v1 = v1 if w is None else w * v1
        zx, zz = _in_blocks(v1, u), _in_blocks(v1, v)
        return {"_sum_x": zx[k], "_sum_z": zz[k], "_zx": zx[:k], "_zz": zz[:k]}

    def _class_sums(self, wu: Tensor, w: Tensor | None) -> Sums:
        """Sum weighted rows by label, and count the labels: what one-hot columns would give, without them."""
        k, n = self.classes, len(wu)
        wide = torch.promote_types(wu.dtype, torch.float64)
        copies = max(1, min(n // _SUMMED_ROWS, n // k))
        place = self.z * copies + torch.arange(n, device=wu.device) % copies
        zx = wu.new_zeros(k * copies, wu.shape[1]).index_add_(0, place, wu).view(k, copies, -1).sum(1, dtype=wide)
        ones = wu.new_ones(n, dtype=wide) if w is None else w[:, 0].to(wide)
        return {"_sum_x": zx.sum(0), "_sum_z": wu.new_zeros(k, dtype=wide).index_add_(0, self.z, ones), "_zx": zx}

    def _in_range(self, sums: Sums, dtype: torch.dtype) -> bool:
        """Tell whether no product over- or underflowed in `dtype`.

        A sum is finite unless a term is not, and the products of two columns are smaller than their squares: the
        diagonals tell. A mean square below tiny / eps is made of products that lost digits, unless it is exactly 0.
        """
        limits = torch.finfo(dtype)
        xx = sums["_xx"].diagonal().real if "_xx" in sums else sums["_squares"]
        zz = sums["_zz"].diagonal().real if "_zz" in sums else None
        checked = [sums["_sum_x"], sums["_sum_z"], sums["_zx"], xx, *([] if zz is None else [zz])]
        if not bool(torch.isfinite(torch.stack([values.sum() for values in checked]).sum())):
            return False
        weight = float(len(self.x))
        if self.weight is not None:
            largest, weight = float(self.weight.max()), float(self.weight.sum())
            if largest == 0:
                return True
            if not limits.max**-0.4 < largest < limits.max**0.4:
                return False
        floor = weight * limits.tiny / limits.eps
        pairs = ((self.x, self.shift_x, xx), (self.z, self.shift_z, zz))
        return not any(_loses_digits(a, shift, squares, floor) for a, shift, squares in pairs if squares is not None)


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix `[n, d]` of scipy in the place of a tensor on the CPU: its zeros are never formed.

    Sums are formed about zero, in float64: a column whose mean is 10⁶ times its spread loses 12 of 16 digits of its
    variance. Columns that are zero for the most part, or one-hot, lose none.
    """

    matrix: Any
    """In the format CSR, float64."""
    dtype: torch.dtype
    """That of the data."""

    @classmethod
    def read(cls, matrix: Any, name: str) -> "SparseRows":
        """Take a matrix of any format; integers and booleans count as float32.

        Raises:
            ValueError: it is complex, or not finite; the message begins with `name`.
        """
        if matrix.dtype.kind not in "biuf":
            raise ValueError(f"{name} is a sparse matrix of {matrix.dtype}, but must hold real numbers")
        rows = matrix.tocsr().astype("float64")
        if not bool(torch.isfinite(torch.from_numpy(rows.data)).all()):
            raise ValueError(f"{name} has NaN or infinite values: drop or impute those rows first")
        return cls(rows, torch.float64 if matrix.dtype == "float64" else torch.float32)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.matrix.shape)

    @property
    def ndim(self) -> int:
        return 2

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __matmul__(self, other: Tensor) -> Tensor:
        """Multiply with a matrix `[d, k]`; the product `[n, k]` is dense, float64."""
        return torch.from_numpy(self.matrix @ other.cpu().double().numpy())

    def sums(self, z: Tensor, weight: Tensor | None, classes: int, *, track_xx: bool) -> Sums:
        """Return what `Batch.sums` does, about zero: `_xx` or `_squares` of x, and `_zz` unless z is labels.

        Args:
            z: `[n, k]`, or labels `[n]`.
            weight: `[n]`; all 1 if None.
            classes: k
            track_xx: whether Σ(x, x) is wanted, which takes time in proportion to the products of two entries of a row
                that are not 0.
        """
        w = torch.ones(len(self), dtype=torch.float64) if weight is None else weight.cpu().double()
        weighted = self.matrix.multiply(w.numpy()[:, None]).tocsr()
        # One-hot columns are formed, as a product with a sparse matrix is far quicker than a scattered sum.
        concept = functional.one_hot(z.cpu(), classes).double() if z.ndim == 1 else z.cpu().double()
        sums = {
            "_sum_x": torch.from_numpy(self.matrix.T @ w.numpy()),
            "_sum_z": concept.mT @ w,
            "_zx": torch.from_numpy(weighted.T @ concept.numpy()).mT.contiguous(),
        }
        if z.ndim == 2:
            sums["_zz"] = concept.mT @ (w[:, None] * concept)
        if track_xx:
            sums["_xx"] = torch.from_numpy((self.matrix.T @ weighted).toarray())
        else:
            sums["_squares"] = torch.from_numpy(self.matrix.multiply(self.matrix).T @ w.numpy())
        return sums


def _squares(wu: Tensor, u: Tensor) -> Tensor:
    """Compute Σ w |u|² `[d]` of u `[n, d]` and w u."""
    products = (wu.conj() * u).real if u.is_complex() else wu * u
    return products.sum(0, dtype=torch.float64)


def _in_blocks(a: Tensor, b: Tensor) -> Tensor:
    """Compute aᴴ b `[p, q]` of a `[n, p]` and b `[n, q]`: blocks of rows in their dtype, their sum in float64."""
    if len(a) < 2 * _SUMMED_ROWS:
        return a.mH @ b
    wide = torch.promote_types(a.dtype, torch.float64)
    whole = len(a) - len(a) % _SUMMED_ROWS
    blocks = (m[:whole].view(whole // _SUMMED_ROWS, _SUMMED_ROWS, m.shape[1]) for m in (a, b))
    total = torch.matmul(next(blocks).mH, next(blocks)).sum(0, dtype=wide)
    return total + a[whole:].mH @ b[whole:]


def _loses_digits(a: Tensor, shift: Tensor, squares: Tensor, floor: float) -> bool:
    """Tell whether a column of `a` whose sum of squares is at most `floor` differs from its shift at all."""
    small = squares <= floor
    return bool(small.any()) and bool((a[:, small] != shift[small]).any())
