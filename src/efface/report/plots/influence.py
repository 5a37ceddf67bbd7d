"""Influence of training samples on the bias, with the most harmful and the most helpful ones."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from efface.report.plots.style import COLOURS, Plot, plain_powers, save, styled
from efface.report.rows import LARGEST

SHOWN = 8
"""Images in a row."""


def influence(runs: pd.DataFrame, arrays: dict[str, Path], folder: Path) -> list[Plot]:
    """Draw a histogram for the first seed of each method and setting with an array `influence` `[n_train]`.

    Beside it the training images that raise and that lower the bias most, `harmful_images` and `helpful_images` uint8
    `[m, h, w, c]`, where they were saved.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    plots: list[Plot] = []
    if "path" not in runs:
        return plots
    for (_, identity), group in runs.groupby(["method", "id"], sort=True):
        first = group.sort_values("seed").iloc[0]
        file = arrays.get(first["path"])
        if file is None or not file.is_file():
            continue
        try:
            saved = load_file(file)
        except (SafetensorError, OSError):
            continue  # the run's own check names a damaged file
        saved["influence"] = _finite(saved.get("influence", np.empty(0)))
        if saved["influence"].size:
            plots += _one(saved, first, folder, f"influence_{identity}")
    return plots


def _one(saved: dict[str, np.ndarray], run: pd.Series, folder: Path, name: str) -> list[Plot]:
    rows = {"raise the bias most": saved.get("harmful_images"), "lower the bias most": saved.get("helpful_images")}
    rows = {title: images for title, images in rows.items() if _are_images(images)}
    values = saved["influence"]
    with styled():
        fig = plt.figure(figsize=(6.4 if rows else 4.2, 2.6), layout="constrained")
        parts = fig.subfigures(1, 2, width_ratios=(1.15, 1), squeeze=False)[0] if rows else [fig]
        ax = parts[0].subplots()
        counts, edges = np.histogram(values, bins=60)
        middle = (edges[:-1] + edges[1:]) / 2
        colours = [COLOURS[1] if x > 0 else COLOURS[0] for x in middle]
        ax.bar(middle, counts, width=np.diff(edges), color=colours)
        ax.set_yscale("log")
        plain_powers(ax.yaxis)
        ax.axvline(0, color="black", linewidth=0.7)
        ax.set(xlabel="influence on the bias", ylabel="training samples")
        ax.set_title(f"{run['method']}, seed {run['seed']}", loc="left")
        if rows:
            _images(parts[1], {title: images for title, images in rows.items() if images is not None})
        caption = (
            f"Influence of each of {len(values):,} training samples on the bias: {run['method']} on {run['dataset']}, "
            f"{run['model']}, seed {run['seed']}."
        )
        return save(fig, folder, name, caption)


def _finite(values: np.ndarray) -> np.ndarray:
    """Return the numbers of an array that a histogram holds, as float64 `[m]`."""
    numbers = np.asarray(values, dtype=float).ravel()
    return np.asarray(numbers[np.abs(numbers) <= LARGEST])


def _are_images(images: np.ndarray | None) -> bool:
    if images is None or images.dtype != np.uint8 or images.ndim != 4:
        return False
    return images.size > 0 and images.shape[-1] in (1, 3, 4)


def _images(strip: object, rows: dict[str, np.ndarray]) -> None:
    columns = min(SHOWN, max(len(images) for images in rows.values())) // 2 or 1
    parts = strip.subfigures(len(rows), 1, squeeze=False)[:, 0]  # type: ignore[attr-defined]
    for part, (title, images) in zip(parts, rows.items(), strict=True):
        part.suptitle(title, fontsize=8.5, x=0.02, ha="left")
        for i, ax in enumerate(part.subplots(2, columns, squeeze=False).flat):
            ax.axis("off")
            if i < len(images):
                image = images[i]
                ax.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", interpolation="nearest")
