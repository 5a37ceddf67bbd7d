"""What a probe reads behind every layer of a language model, and what erasing in one of them costs."""

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


def loss_by_layer(runs: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw the loss with a concept erased in one block alone against the block, a panel for each setting.

    Args:
        runs: finished runs; `method_options` has the `layer` of those that erase in one.
        folder: where to write.
    """
    if not {"bits_per_byte", "method_options"} <= set(runs):
        return []
    layer = pd.to_numeric(runs["method_options"].map(lambda options: options.get("layer")), errors="coerce")
    measured = runs.assign(layer=layer).dropna(subset=["bits_per_byte"])
    groups = [(name, group) for name, group in settings(measured) if group["layer"].notna().any()]
    if not groups:
        return []
    with styled():
        fig, axes = plt.subplots(len(groups), 1, figsize=(5.6, 2.6 * len(groups)), squeeze=False, layout="constrained")
        for (setting, group), ax in zip(groups, axes[:, 0], strict=True):
            for name, of_method in group[group["layer"].notna()].groupby("method_name", sort=True):
                means = of_method.groupby("layer", sort=True)["bits_per_byte"].mean()
                ax.plot(means.index, means, "o-", markersize=4, label=f"{name} in one block")
            for name, style in (("none", "-"), ("leace", "--")):
                whole = numbers(group[(group["method_name"] == name) & group["layer"].isna()], "bits_per_byte")
                if len(whole):
                    label = "nothing erased" if name == "none" else f"{name} in all blocks"
                    ax.axhline(float(whole.mean()), color=GREY, linewidth=0.8, linestyle=style, label=label)
            ax.set(xlabel="block, from 0", ylabel="bits per byte")
            ax.set_title(setting, loc="left")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.legend()
        caption = (
            "Loss of a language model on test with the concept erased at the normalisations of one block alone, means "
            "over seeds: how much that block makes of the concept. States that pass it by keep it."
        )
        return save(fig, folder, "loss_by_layer", caption)


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
