"""What a probe reads behind every layer of a language model."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from efface.report.plots.style import GREY, Plot, looks, numbers, room_for, save, settings, styled
from efface.report.seeds import interval

PANELS = {"probe_information": "probe information, bits", "probe_accuracy": "probe accuracy"}


def probe_by_layer(runs: pd.DataFrame, layers: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw what a linear probe reads behind each layer, a line for each method and a row of panels for each setting.

    Args:
        runs: finished runs.
        layers: `path` of the run, `layer` from 1 in the order in which they run, and the metrics of `PANELS`.
        folder: where to write.
    """
    columns = {"path", "layer", *PANELS, "probe_majority"}
    if "path" not in runs or not columns <= set(layers):
        return []
    names = runs[["dataset", "model", "training", "method", "method_name", "path"]]
    probed = names.merge(layers[sorted(columns)], on="path").dropna(subset=list(PANELS))
    if len(probed) == 0:
        return []
    look = looks(probed)
    groups = settings(probed)
    with styled():
        size = (6 + room_for(look), 2.5 * len(groups) + 0.4)
        fig, axes = plt.subplots(len(groups), len(PANELS), figsize=size, squeeze=False, layout="constrained")
        for (setting, group), panels in zip(groups, axes, strict=True):
            for (key, label), ax in zip(PANELS.items(), panels, strict=True):
                _lines(ax, group, key, look)
                ax.set(xlabel="normalisation, from the first", ylabel=label)
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            panels[0].axhline(0, color=GREY, linewidth=0.7)
            panels[1].axhline(float(numbers(group, "probe_majority").mean()), color=GREY, linewidth=0.7, linestyle=":")
            panels[0].set_title(setting, loc="left")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside right center")
        caption = (
            "What a linear probe reads of the concept behind each normalisation of a language model on test tokens, "
            "means over seeds with 95 % t intervals; dotted, the share of the most frequent label."
        )
        return save(fig, folder, "probe_by_layer", caption)


def _lines(ax: Axes, group: pd.DataFrame, key: str, look: dict[str, tuple[str, str]]) -> None:
    """Draw a metric against the layer, a line for each method."""
    for method, (colour, marker) in look.items():
        by_layer = group[group["method"] == method].groupby("layer", sort=True)
        points = [(float(str(layer)), numbers(at_layer, key)) for layer, at_layer in by_layer]
        if not points:
            continue
        x = [layer for layer, _ in points]
        reach = np.array([interval(values) for _, values in points])
        ax.plot(x, [values.mean() for _, values in points], f"{marker}-", color=colour, markersize=4, label=method)
        ax.vlines(x, reach[:, 0], reach[:, 1], colors=colour, linewidth=0.9)
