"""Shards of the digits of scikit-learn, in every format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor

from efface.embeddings.__main__ import main

X, Y = (torch.from_numpy(np.ascontiguousarray(part)) for part in load_digits(return_X_y=True))
X, Y = X.float() / 16, Y.long()
PARTS = (slice(0, 700), slice(700, 701), slice(701, 1797))
"""One of them has a single row."""


def save_npy(path: Path, x: Tensor, z: Tensor) -> list[Path]:
    """Write embeddings, and labels beside them; return both paths."""
    beside = path.with_name(f"{path.stem}-labels.npy")
    np.save(path, x.numpy())
    np.save(beside, z.numpy())
    return [path, beside]


def save_safetensors(path: Path, x: Tensor, z: Tensor) -> list[Path]:
    save_file(
        {"a": torch.arange(len(x)), "x": x.contiguous(), "z": z.contiguous(), "zz": torch.ones(3)}, path, {"by": "us"}
    )
    return [path]


def save_lists(path: Path, x: Tensor, z: Tensor) -> list[Path]:
    """Write one column of lists of a fixed size, in small row groups."""
    return _save_column(path, x, z, pa.list_(pa.from_numpy_dtype(x.numpy().dtype), x.shape[1]))


def save_ragged(path: Path, x: Tensor, z: Tensor) -> list[Path]:
    """Write one column of lists of any size, as pandas does."""
    return _save_column(path, x, z, pa.list_(pa.from_numpy_dtype(x.numpy().dtype)))


def _save_column(path: Path, x: Tensor, z: Tensor, kind: pa.DataType) -> list[Path]:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1).numpy()), x.shape[1]).cast(kind)
    table = pa.table({"id": np.arange(len(x)), "x": lists, "z": z.numpy()})
    parquet.write_table(table, path, row_group_size=300, compression="zstd")
    return [path]


def save_columns(path: Path, x: Tensor, z: Tensor) -> list[Path]:
    """Write a column for each dimension, in an order of their own."""
    columns = {f"x_{i}": x[:, i].numpy() for i in reversed(range(x.shape[1]))}
    parquet.write_table(pa.table({"z": z.numpy(), **columns}), path, row_group_size=300)
    return [path]


Save = Callable[[Path, Tensor, Tensor], list[Path]]
FORMATS: dict[str, tuple[str, Save]] = {
    "npy": (".npy", save_npy),
    "safetensors": (".safetensors", save_safetensors),
    "lists": (".parquet", save_lists),
    "ragged": (".parquet", save_ragged),
    "columns": (".parquet", save_columns),
}


def read(path: Path, kind: str) -> Tensor:
    """Read the embeddings of a shard with the library of its format."""
    if kind == "npy":
        return torch.from_numpy(np.load(path))
    if kind == "safetensors":
        from safetensors.torch import load_file

        return load_file(path)["x"]
    table = parquet.read_table(path)
    if kind == "columns":
        return torch.from_numpy(np.stack([table[f"x_{i}"].to_numpy() for i in range(X.shape[1])], 1))
    return torch.from_numpy(np.stack(table["x"].to_pandas().to_numpy()))


def write(folder: Path, kind: str = "npy", x: Tensor = X, z: Tensor = Y) -> list[str]:
    """Write the shards of `PARTS` to a folder; return the arguments that name them, of which shards come first."""
    folder.mkdir(exist_ok=True)
    suffix, save = FORMATS[kind]
    paths = [save(folder / f"{i}{suffix}", x[rows], z[rows]) for i, rows in enumerate(PARTS)]
    shards, labels = [str(path[0]) for path in paths], [str(path[1]) for path in paths if len(path) > 1]
    return [*shards, "--labels", *labels] if labels else shards


def run(*arguments: object, status: int = 0) -> None:
    """Run a command in this process, and check its exit status."""
    assert main([str(argument) for argument in arguments]) == status
