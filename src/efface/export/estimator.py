"""--to sklearn: a fitted classifier of scikit-learn in a file of skops, which runs no code when it is read."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.export.whole import ExportError, Whole
from efface.extras import require

FILE = "model.skops"
_FRAME, _ARRAY = "rows.parquet", "rows.npy"
_HARMLESS = ("numpy.dtype", "scipy._lib.array_api_compat.numpy._aliases.asarray")
"""What skops asks about in files of ordinary pipelines, beside classes of scikit-learn and scipy."""


def write(whole: Whole, folder: Path) -> None:
    """Write the classifier, and check its probabilities of stored rows once it is read.

    Raises:
        ExportError: the model did not come from scikit-learn, or the probabilities are others.
        ModuleNotFoundError: the extra `export` is not installed.
    """
    require("skops", "sklearn", extra="export", what="--to sklearn")
    from skops import io

    if whole.estimator is None:
        raise ExportError("the model is no linear classifier of columns: take --to safetensors, torch or onnx")
    io.dump(whole.estimator(), folder / FILE)
    logits = logits_of(load(folder / FILE), whole.rows, whole.stored.logits)
    whole.require_same(lambda inputs: logits[: len(next(iter(inputs.values())))], what=FILE)


def logits_of(classifier: Any, rows: Any, logits: Tensor) -> Tensor:
    """Return the logits `[n, K]` that a classifier's probabilities tell.

    These are known but for a constant in each row, which is taken from the `logits` that they are compared with.
    """
    logs = torch.from_numpy(np.log(classifier.predict_proba(rows).clip(min=np.finfo(np.float32).tiny)))
    return (logs + (logits - logs).mean(1, keepdim=True)).float()


def load(file: Path) -> Any:
    """Read a classifier that is made of the classes of this machine's scikit-learn and scipy.

    Functions are not trusted, whatever package they are of: `numpy.load` or `pandas.read_pickle` as a step of a
    pipeline would unpickle what its arguments name.

    Raises:
        ExportError: it holds something else.
    """
    from skops import io

    unknown = io.get_untrusted_types(file=file)
    foreign = [name for name in unknown if name not in _HARMLESS and not _is_class(name)]
    if foreign:
        raise ExportError(
            f"{file.name} would hold {', '.join(foreign)}, which is no class of scikit-learn: leave it out"
        )
    return io.load(file, trusted=unknown)


def _is_class(name: str) -> bool:
    """Return whether a dotted name is that of a class of scikit-learn or scipy."""
    module, _, last = name.rpartition(".")
    if module.partition(".")[0] not in ("sklearn", "scipy"):
        return False
    try:
        return isinstance(getattr(import_module(module), last, None), type)
    except ImportError:
        return False


def store_rows(rows: Any, folder: Path) -> None:
    """Write some rows as a classifier takes them, a frame or an array, so that a copy can be checked on them."""
    if hasattr(rows, "to_parquet"):
        rows.to_parquet(folder / _FRAME)
    else:
        np.save(folder / _ARRAY, np.asarray(rows), allow_pickle=False)


def read_rows(folder: Path) -> Any:
    """Read what `store_rows` wrote."""
    if (folder / _FRAME).is_file():
        import pandas as pd

        return pd.read_parquet(folder / _FRAME)
    return np.load(folder / _ARRAY, allow_pickle=False)
