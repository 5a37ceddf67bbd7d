"""What runs cost, and how base models were trained."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from efface.report.figures.style import COLOURS, MARKERS, Drawn, ends, looks, numbers, save, settings, several, styled


def time_against_size(runs: pd.DataFrame, folder: Path) -> list[Drawn]:
    """Seconds of a method against the size of what it was fitted on, n × d, where there are several sizes."""
    if not {"n_fit", "d", "seconds_method"} <= set(runs):
        return []
    sized = runs.dropna(subset=["n_fit", "d", "seconds_method"])
    sized = sized.assign(size=pd.to_numeric(sized["n_fit"]) * pd.to_numeric(sized["d"]))
    if not several(sized["size"]):
        return []
    look = looks(sized)
    with styled():
        fig, ax = plt.subplots(figsize=(5.4, 3.1), layout="constrained")
        for method, of in sized.groupby("method", sort=False):
            colour, marker = look[str(method)]
            points = [(size, numbers(at, "seconds_method")) for size, at in of.groupby("size", sort=True)]
            sizes, means = [float(str(size)) for size, _ in points], [values.mean() for _, values in points]
            reach = np.array([ends(values) for _, values in points])
            ax.plot(sizes, means, f"{marker}-", color=colour, markersize=4, linewidth=1, label=method)
            ax.vlines(sizes, reach[:, 0], reach[:, 1], colors=colour, linewidth=0.9)
        ax.set(xscale="log", yscale="log", xlabel="values fitted on, n × d", ylabel="seconds of the method")
        handles, labels = ax.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: list(look).index(labels[i]))
        fig.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside right center")
        caption = (
            "Seconds that a method takes, without training and evaluation, against the number of values that it is "
            "fitted on; means over seeds with 95 % bootstrap intervals."
        )
        return save(fig, folder, "time_against_size", caption)


def training_curves(runs: pd.DataFrame, histories: dict[str, list[dict[str, float]]], folder: Path) -> list[Drawn]:
    """The training history of each setting's base models, mean and range over seeds.

    Args:
        runs: finished runs.
        histories: by the run's path, rows with `epoch` and any other keys; a panel for each key.
        folder: where to write.
    """
    found: dict[str, dict[int, pd.DataFrame]] = {}
    for setting, group in settings(runs):
        for seed, path in zip(group["seed"], group.get("path", pd.Series(dtype=object)), strict=False):
            of = found.setdefault(setting, {})
            if path in histories and int(seed) not in of:  # methods share their base model: one history for each seed
                of[int(seed)] = pd.DataFrame(histories[path]).set_index("epoch")
    keys = list(dict.fromkeys(str(key) for seeds in found.values() for history in seeds.values() for key in history))
    if not keys:
        return []
    with styled():
        fig, axes = plt.subplots(
            1, len(keys), figsize=(2.9 * len(keys) + 0.3, 2.7 + 0.16 * len(found)), squeeze=False, layout="constrained"
        )
        for key, ax in zip(keys, axes[0], strict=True):
            for i, (setting, seeds) in enumerate(found.items()):
                colour = COLOURS[i % len(COLOURS)]
                by_seed = pd.DataFrame({seed: h[key] for seed, h in seeds.items() if key in h}).sort_index()
                if by_seed.empty:
                    continue
                mean = by_seed.mean(axis=1)
                epochs = mean.index + 1
                ax.fill_between(epochs, by_seed.min(axis=1), by_seed.max(axis=1), color=colour, alpha=0.18, linewidth=0)
                marker = MARKERS[i % len(MARKERS)] if len(mean) < 2 else ""
                ax.plot(epochs, mean, color=colour, marker=marker, label=setting)
            ax.set(xlabel="epoch", ylabel=key.replace("_", " "))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper left")
        caption = "Training of the base models: mean over seeds, shaded from the lowest to the highest."
        return save(fig, folder, "training_curves", caption)
