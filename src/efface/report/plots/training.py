"""What runs cost, and how base models were trained."""

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from efface.report.plots.style import (
    COLOURS,
    MARKERS,
    Plot,
    looks,
    numbers,
    plain_powers,
    room_for,
    save,
    settings,
    several,
    styled,
)


def time_against_size(runs: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw seconds of a method against the size of what it was fitted on, n × d, where there are several sizes."""
    if not {"n_fit", "d", "seconds_method"} <= set(runs):
        return []
    sized = runs.dropna(subset=["n_fit", "d", "seconds_method"])
    sized = sized.assign(size=pd.to_numeric(sized["n_fit"]) * pd.to_numeric(sized["d"]))
    if not several(sized["size"]):
        return []
    look = looks(sized)
    with styled():
        fig, ax = plt.subplots(figsize=(3.9 + room_for(look), max(3.1, 0.17 * len(look))), layout="constrained")
        for method, of_method in sized.groupby("method", sort=False):
            colour, marker = look[str(method)]
            points = [(float(str(n)), numbers(group, "seconds_method")) for n, group in of_method.groupby("size")]
            sizes, means = [size for size, _ in points], [values.mean() for _, values in points]
            ax.plot(sizes, means, f"{marker}-", color=colour, markersize=4, linewidth=1, label=method)
            low, high = [values.min() for _, values in points], [values.max() for _, values in points]
            ax.vlines(sizes, low, high, colors=colour, linewidth=0.9)
        ax.set(xscale="log", yscale="log", xlabel="values fitted on, n × d", ylabel="seconds of the method")
        plain_powers(ax.xaxis, ax.yaxis)
        handles, labels = ax.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: list(look).index(labels[i]))
        fig.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside right center")
        caption = (
            "Seconds that a method takes, without training and evaluation, against the number of values that it is "
            "fitted on; means over all runs of that size, from the fastest to the slowest."
        )
        return save(fig, folder, "time_against_size", caption)


def training_curves(runs: pd.DataFrame, histories: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw the training history of each setting's base models, mean and range over seeds.

    Args:
        runs: finished runs.
        histories: `path` of the run, `epoch`, and any other numbers; a panel for each of these.
        folder: where to write.
    """
    keys = [str(key) for key in histories if key not in ("path", "epoch")]
    if "path" not in runs or "epoch" not in histories or not keys:
        return []
    curves = {}
    for setting, group in settings(runs):
        # Methods share their base model: one history for each seed.
        first = group[group["path"].isin(histories["path"])].drop_duplicates("seed")
        if len(first):
            curves[setting] = first[["seed", "path"]].merge(histories, on="path")
    if not curves:
        return []
    with styled():
        fig, axes = plt.subplots(
            1, len(keys), figsize=(2.9 * len(keys) + 0.3, 2.7 + 0.16 * len(curves)), squeeze=False, layout="constrained"
        )
        for key, ax in zip(keys, axes[0], strict=True):
            _epochs(ax, curves, key)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper left")
        caption = "Training of the base models: mean over seeds, shaded from the lowest to the highest."
        return save(fig, folder, "training_curves", caption)


def _epochs(ax: Axes, curves: dict[str, pd.DataFrame], key: str) -> None:
    """Draw one quantity against the epoch, a line for each setting."""
    for i, (setting, history) in enumerate(curves.items()):
        by_epoch = history.dropna(subset=key).groupby("epoch")[key]
        if len(by_epoch) == 0:
            continue
        mean, colour = by_epoch.mean(), COLOURS[i % len(COLOURS)]
        epochs = mean.index + 1
        ax.fill_between(epochs, by_epoch.min(), by_epoch.max(), color=colour, alpha=0.18, linewidth=0)
        marker = MARKERS[i % len(MARKERS)] if len(mean) < 2 else ""
        ax.plot(epochs, mean, color=colour, marker=marker, label=setting)
    ax.set(xlabel="epoch", ylabel=key.replace("_", " "))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
