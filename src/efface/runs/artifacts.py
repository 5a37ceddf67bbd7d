"""The files that a run of a debiasing method leaves beside its record."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from efface.data.base import Dataset
from efface.debiased import MODEL_FILE, Debiased
from efface.runs.directory import Writers

ARRAYS_FILE, PREDICTIONS_FILE = "arrays.safetensors", "predictions.parquet"
PREPROCESSING_FILE = "preprocessing.skops"


def writers_of(debiased: Debiased, dataset: Dataset, predictions: Mapping[str, Tensor]) -> Writers:
    """Return what writes each file: the debiased model, its predictions on test, and arrays and preprocessing if any.

    Args:
        debiased: what the method returned.
        dataset: test tells ids, labels, attributes and, where it has them, clusters; train tells the images of the rows
            that an array names.
        predictions: columns `[n]` of test.
    """
    import pandas as pd
    from safetensors.torch import save_file

    test = dataset.test
    cluster = {} if test.cluster is None else {"cluster": test.cluster}
    columns = {"index": test.index, "y": test.y, "a": test.a, **cluster, **predictions}
    table = pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    arrays = {name: array.cpu().contiguous() for name, array in debiased.arrays.items()}
    arrays |= images_of_rows(dataset, arrays)

    def write_table(path: Path) -> None:
        table.to_parquet(path, index=False)

    def write_arrays(path: Path) -> None:
        save_file(arrays, path)

    writers: dict[str, Callable[[Path], object]] = {MODEL_FILE: debiased.save, PREDICTIONS_FILE: write_table}
    writers |= {ARRAYS_FILE: write_arrays} if arrays else {}
    preprocessing = dataset.preprocessing
    return writers | ({PREPROCESSING_FILE: preprocessing.save} if preprocessing is not None else {})


def images_of_rows(dataset: Dataset, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the images of the train rows that arrays `<name>_rows` hold, as `<name>_images` uint8 `[m, h, w, c]`.

    None of data that are no images. Inputs that do not lie in 0 … 1, such as normalised ones, are stretched to it.
    """
    if len(dataset.input_shape) != 3 or dataset.input_shape[0] not in (1, 3):
        return {}
    images = {}
    for name, rows in arrays.items():
        if name.endswith("_rows"):
            x = dataset.train.inputs(rows.cpu())
            if len(x) and (float(x.min()) < 0 or float(x.max()) > 1):
                x = (x - x.min()) / (x.max() - x.min()).clamp_min(1e-12)
            pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
            images[name.removesuffix("rows") + "images"] = pixels.contiguous()
    return images
