"""Your own data: x, y and a in one .npz file."""

import hashlib
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from efface.data.base import (
    SPLITS,
    Dataset,
    Split,
    TensorSplit,
    matched_pairs,
    require_every_class,
    require_two_attributes,
)
from efface.data.groups import groups
from efface.data.labels import as_strings, codes
from efface.data.splits import Ratios, dealt_parts, named_rows, require_shares
from efface.data.text import some
from efface.moments import require_finite
from efface.options import Ge, Len, options

_SQUARES, _SQUARES_OF_DOUBLES = 1e15, 1e150
"""Largest inputs whose sums of squares still fit into float32, and into float64."""
_SCALES = 1e3
"""How many times the standard deviation of one column may be that of another without a warning."""


@options
class FeatureFile:
    """Embeddings or a table, from a .npz file with the arrays

    * `x` `[n, d]` (or `[n, ...]`), numbers;
    * `y` `[n]`, the label, and `a` `[n]`, the protected attribute: integers (also as whole floats) or strings;
    * `split` `[n]`, optional: `train`, `val`, `pairs` or `test` for each row.

    Pairs are two rows of one label and different attributes, drawn at random: a counterfactual of a row is not known,
    so `counterfactual_bias` is null.

    Args:
        path: the file.
        ratios: shares of train, val, pairs and test, if the file has no `split`. Rows are dealt out stratified by
            label and attribute.
        standardise: centre and scale the columns of x by their means and standard deviations in train, so that their
            units do not matter. Without it, a warning says where the scales of columns differ widely.
        attribute_columns: columns of x that are the attribute itself, for `method=unaware`; None if none is.
        per_sample_inputs: whether each row of x was computed from that sample alone; `method=certified` certifies
            nothing unless it is declared true. None if it is not known. It is not where an extractor was trained on
            these samples, or columns were scaled by their means.
    """

    path: str
    ratios: Ratios = (0.6, 0.1, 0.1, 0.2)
    standardise: bool = True
    attribute_columns: Annotated[Sequence[Annotated[int, Ge(0)]], Len(1)] | None = None
    per_sample_inputs: bool | None = None

    def __post_init__(self) -> None:
        require_shares(self.ratios)
        if self.standardise and self.per_sample_inputs:
            raise ValueError(
                "per_sample_inputs is true, but standardise=true makes every row depend on all of train: set "
                "dataset.standardise=false"
            )

    def fingerprint(self, data_dir: Path) -> str:
        file = self._file
        if not file.is_file():
            raise FileNotFoundError(
                f"path: no file {file.resolve()}. Save one with numpy.savez(path, x=features, y=labels, a=attribute)"
            )
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser()

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the file and deal its rows out. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)
        arrays = self._read()
        y, classes = codes(arrays["y"], "y")
        a, attributes = codes(arrays["a"], "a")
        generator = torch.Generator().manual_seed(0)
        if "split" in arrays:
            parts = self._named_parts(arrays["split"])
        else:
            shares = dict(zip(SPLITS, self.ratios, strict=True))
            parts = dealt_parts(groups(y, a, len(attributes)), shares, generator)
        x = self._inputs(arrays["x"], parts["train"].numpy())
        splits: dict[str, Split] = {
            name: TensorSplit(index=rows, y=y[rows], a=a[rows], x=x[rows]) for name, rows in parts.items()
        }
        require_every_class({name: splits[name] for name in ("train", "val", "test")}, classes)
        require_two_attributes(splits["train"], attributes, self.path)
        pairs = {name: matched_pairs(splits[name], generator) for name in ("val", "pairs", "test")}
        return Dataset.from_parts(
            splits,
            pairs,
            classes=classes,
            attributes=attributes,
            input_shape=tuple(x.shape[1:]),
            flippable=False,
            fingerprint=fingerprint,
            attribute_columns=self._columns(x),
            per_sample_inputs=False if self.standardise else self.per_sample_inputs,
        )

    def _columns(self, x: Tensor) -> tuple[int, ...] | None:
        """Check that `attribute_columns` are columns of x."""
        if self.attribute_columns is None:
            return None
        if x.ndim != 2 or max(self.attribute_columns, default=0) >= x.shape[1]:
            raise ValueError(
                f"attribute_columns is {list(self.attribute_columns)}, but must name columns of x, which has shape "
                f"{list(x.shape)}"
            )
        return tuple(self.attribute_columns)

    def _inputs(self, x: np.ndarray, train: np.ndarray) -> Tensor:
        """Convert x to float32, standardised by train if asked for."""
        dtype = np.float32 if np.can_cast(x.dtype, np.float32) else np.float64
        wide = torch.from_numpy(np.ascontiguousarray(x, dtype=dtype))
        require_finite(wide.flatten(1), f"x in {self.path}")
        if self.standardise:
            self._require_below(wide, _SQUARES_OF_DOUBLES)
            rows = wide[train].double()
            std, mean = torch.std_mean(rows, 0, correction=0)
            varies = rows.amax(0) > rows.amin(0)  # of a constant, rounding makes a tiny std
            wide = (wide - mean) / torch.where(varies, std, 1)
        self._require_below(wide, _SQUARES)
        self._require_resolved(wide, train)
        if not self.standardise:
            self._warn_of_scales(wide[train])
        return wide.to(torch.float32)

    def _warn_of_scales(self, x: Tensor) -> None:
        """Warn where columns of train differ so much in scale that penalties and steps see only the largest."""
        rows = x.double().flatten(1)
        varying = (rows.amax(0) > rows.amin(0)).nonzero()[:, 0]
        std = rows[:, varying].std(0, correction=0)
        if len(std) and float(std.max() / std.min()) > _SCALES:
            (low, least), (high, most) = (
                (float(std[i]), int(varying[i])) for i in (int(std.argmin()), int(std.argmax()))
            )
            warnings.warn(
                f"path: columns of x in {self.path} differ widely in scale: in train column {most} has a standard "
                f"deviation of {high:.3g}, column {least} one of {low:.3g}. dataset.standardise=true makes them alike",
                stacklevel=4,
            )

    def _require_below(self, x: Tensor, limit: float) -> None:
        largest = x.flatten(1).abs().amax(0)
        if float(largest.max()) > limit:
            raise ValueError(
                f"x in {self.path} holds {float(largest.max()):.3g} in column {int(largest.argmax())}: beyond "
                f"{limit:g} sums of squares overflow. Scale x, or set dataset.standardise=true"
            )

    def _require_resolved(self, x: Tensor, train: np.ndarray) -> None:
        """Check that the columns of train still vary in float32 as they did, but for a hundredth."""
        if x.dtype == torch.float32:
            return
        rows = x[train].double().flatten(1)
        lost = (rows - rows.float().double()).square().mean(0).sqrt() > 0.01 * rows.std(0, correction=0)
        lost &= rows.amax(0) > rows.amin(0)  # a constant has nothing to lose
        if lost.any():
            column = int(lost.nonzero()[0])
            raise ValueError(
                f"x in {self.path} has a spread of {float(rows[:, column].std()):.3g} around "
                f"{float(rows[0, column]):.9g} in column {column}, which float32 cannot hold: subtract the mean, or "
                "set dataset.standardise=true"
            )

    def _read(self) -> dict[str, np.ndarray]:
        """Read the arrays, and check their shapes and dtypes."""
        try:
            file = np.load(self._file, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError(f"it is one array of shape {file.shape}, as numpy.save writes it")
            with file:
                arrays = dict(file)
            others = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
            if others:
                raise ValueError(f"{some(others)} is no array")
        except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"path: {self.path} cannot be read ({error}). Save plain arrays with "
                "numpy.savez(path, x=features, y=labels, a=attribute); object arrays are refused"
            ) from error
        missing = [name for name in ("x", "y", "a") if name not in arrays]
        if missing:
            raise ValueError(f"path: {self.path} has no array {', '.join(missing)}, only {', '.join(sorted(arrays))}")
        used = [name for name in ("x", "y", "a", "split") if name in arrays]
        unused = sorted(set(arrays) - set(used))
        if unused:
            warnings.warn(f"path: {self.path} has arrays that are not used: {some(unused)}", stacklevel=4)
        lengths = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in used}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"path: the arrays of {self.path} have different lengths: {lengths}")
        if arrays["x"].ndim < 2 or 0 in arrays["x"].shape or arrays["x"].dtype.kind not in "fiub":
            raise ValueError(
                f"path: x in {self.path} has shape {arrays['x'].shape} and dtype {arrays['x'].dtype}, but must be "
                "numbers of shape [n, d], n and d > 0"
            )
        return arrays

    def _named_parts(self, split: np.ndarray) -> dict[str, Tensor]:
        """Return the rows of each part that the array `split` names."""
        if split.ndim != 1:
            raise ValueError(f"path: split in {self.path} has shape {split.shape}, but must be [n]")
        return named_rows(as_strings(split, "split").astype(str), f"path: split in {self.path}")
