"""--to sklearn: a fitted classifier of scikit-learn in a file of skops, which runs no code when it is read."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from efface.export.whole import ExportError, Whole
from efface.extras import require

FILE = "model.skops"
_FRAME, _ARRAY = "rows.parquet", "rows.npy"


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
    loaded = load(folder / FILE)
    logits = torch.from_numpy(np.log(loaded.predict_proba(whole.rows).clip(min=np.finfo(np.float32).tiny)))
    # Logits are known but for a constant in each row.
    constant = (whole.logits - logits).mean(1, keepdim=True)
    whole.require_same(lambda inputs: (logits + constant)[: len(next(iter(inputs.values())))].float(), what=FILE)


def load(file: Path) -> Any:
    """Read a classifier that this machine's scikit-learn, numpy and scipy know; nothing else is trusted."""
    from skops import io

    unknown = io.get_untrusted_types(file=file)
    foreign = [name for name in unknown if name.partition(".")[0] not in ("sklearn", "numpy", "scipy", "pandas")]
    if foreign:
        raise ExportError(
            f"{file.name} would hold {', '.join(foreign)}, which is no part of scikit-learn: leave it out"
        )
    return io.load(file, trusted=unknown)


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
