"""What a probe reads behind every layer of a language model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from efface.report.figures.style import GREY, Drawn, ends, looks, numbers, save, settings, styled

PANELS = {"probe_information": "probe information, bits", "probe_accuracy": "probe accuracy"}


def probe_by_layer(runs: pd.DataFrame, layers: dict[str, list[dict[str, Any]]], folder: Path) -> list[Drawn]:
    """What a linear probe reads behind each layer, a line for each method and a row of panels for each setting.

    Args:
        runs: finished runs.
        layers: by the run's path, a row for each layer, in the order in which they run; see `PANELS` for its keys.
        folder: where to write.
    """
    if "path" not in runs:
        return []
    rows = [
        {"path": path, "layer": i + 1, **{key: layer.get(key) for key in (*PANELS, "probe_majority")}}
        for path, of_run in layers.items()
        for i, layer in enumerate(of_run)
    ]
    table = pd.DataFrame(rows, columns=["path", "layer", *PANELS, "probe_majority"])
    probed = runs[["dataset", "model", "training", "method", "method_name", "path"]].merge(table, on="path")
    probed = probed.dropna(subset=list(PANELS))
    if len(probed) == 0:
        return []
    look = looks(probed)
    groups = settings(probed)
    with styled():
        fig, axes = plt.subplots(
            len(groups), len(PANELS), figsize=(7.4, 2.5 * len(groups) + 0.4), squeeze=False, layout="constrained"
        )
        for (setting, group), panels in zip(groups, axes, strict=True):
            for (key, label), ax in zip(PANELS.items(), panels, strict=True):
                for method, (colour, marker) in look.items():
                    of = group[group["method"] == method]
                    points = [(layer, numbers(at, key)) for layer, at in of.groupby("layer", sort=True)]
                    if not points:
                        continue
                    at = [float(str(layer)) for layer, _ in points]
                    reach = np.array([ends(values) for _, values in points])
                    ax.plot(at, [v.mean() for _, v in points], f"{marker}-", color=colour, markersize=4, label=method)
                    ax.vlines(at, reach[:, 0], reach[:, 1], colors=colour, linewidth=0.9)
                ax.set(xlabel="normalisation, from the first", ylabel=label)
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            panels[0].axhline(0, color=GREY, linewidth=0.7)
            panels[1].axhline(float(numbers(group, "probe_majority").mean()), color=GREY, linewidth=0.7, linestyle=":")
            panels[0].set_title(setting, loc="left")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside right center")
        caption = (
            "What a linear probe reads of the concept behind each normalisation of a language model on test tokens, "
            "means over seeds with 95 % bootstrap intervals; dotted, the share of the most frequent label."
        )
        return save(fig, folder, "probe_by_layer", caption)
