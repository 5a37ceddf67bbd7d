"""Words on the plane of their first two principal components, before and after erasure."""

import math
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from efface.report.labels import method_order
from efface.report.plots.style import COLOURS, Plot, save, settings, several, styled

_WIDE = 4
"""Panels in a row."""


def words_on_a_plane(runs: pd.DataFrame, words: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw the words of test by their attribute, before and after each method, after Ravfogel et al. (2022), figure 1.

    Args:
        runs: finished runs.
        words: `path` of the run, `attribute`, and the coordinates `before_x`, `before_y`, `after_x`, `after_y`.
        folder: where to write.
    """
    if "path" not in runs or len(words) == 0:
        return []
    names = runs[["dataset", "model", "training", "method", "method_name", "path"]]
    panels = []
    for setting, group in settings(names.merge(words, on="path")):
        erased = group[group["method_name"] != "none"]
        first = group[group["path"] == group["path"].iloc[0]]
        title = f"{setting}, before" if several(names["dataset"]) else "before"
        panels.append((title, first, "before"))
        methods = sorted(erased["method"].unique(), key=method_order)
        panels += [(method, erased[erased["method"] == method], "after") for method in methods]
    rows = math.ceil(len(panels) / _WIDE)
    with styled():
        columns = min(_WIDE, len(panels))
        size = (2.2 * columns, 2.2 * rows + 0.4)
        fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, group, when) in zip(axes.flat, panels, strict=False):
            _scatter(ax, group, when)
            ax.set_title(title, loc="left")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        caption = (
            "The most frequent words of test on the plane of the first two principal components of all of test, before "
            "and after each method, of which the run of the lowest rank and seed is drawn. Each panel has a plane of "
            "its own."
        )
        return save(fig, folder, "words_on_a_plane", caption)


def _scatter(ax: Axes, group: pd.DataFrame, when: str) -> None:
    by_attribute = group.groupby("attribute", sort=True)
    for (attribute, points), colour, marker in zip(by_attribute, COLOURS, "o^sD", strict=False):
        ax.plot(
            points[f"{when}_x"],
            points[f"{when}_y"],
            marker,
            color=colour,
            markersize=2.5,
            markeredgewidth=0,
            alpha=0.6,
            label=str(attribute),
        )
    ax.set(xticks=[], yticks=[])
