"""Accuracy against bias, with the Pareto front."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from efface.metrics import METRICS
from efface.report.cells import heading
from efface.report.plots.style import GREY, Plot, absent, by, looks, numbers, room_for, save, settings, styled
from efface.report.seeds import common_seeds, interval

BIASES = ("counterfactual_bias", "probe_information", "conditional_score_gap_mean_abs", "average_odds_difference")
"""What accuracy is drawn against: the first `PANELS` that have values; signed ones by their absolute value."""
PANELS = 3
MOST = 24
"""Entries of a legend; beyond them it names methods without their options."""
_ACCURACY = "unbiased_accuracy"
_FRONT = "Pareto front"


def accuracy_against_bias(runs: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw unbiased accuracy over each bias, with 95 % t intervals over seeds; up and left is better.

    One row of panels for each (dataset, model, training), or one panel if there is a single bias. The dashed line is
    the Pareto front of the means over common seeds: no method is both more accurate and less biased than one on it;
    those off it are hollow, and so are those without all common seeds, which are not compared.
    """
    rows = settings(runs)
    biases = [bias for bias in BIASES if len(numbers(runs, bias))][:PANELS]
    if not biases or _ACCURACY not in runs:
        return []
    headings = {metric.key: heading(metric) for metric in METRICS}
    look = looks(runs)
    legend = look if len(look) <= MOST else {label.partition(" ")[0]: (c, "o") for label, (c, _) in look.items()}
    columns = -(-len(legend) // 18)
    wide = min(len(rows), PANELS) if len(biases) == 1 else len(biases)
    high = -(-len(rows) * len(biases) // wide)
    with styled():
        size = (2.9 * wide + room_for([*legend, _FRONT]) * columns, 2.7 * high + 0.2)
        shared: Literal["none", "row"] = "none" if len(biases) == 1 else "row"
        fig, axes = plt.subplots(high, wide, figsize=size, squeeze=False, layout="constrained", sharey=shared)
        lines = axes.reshape(-1, len(biases))
        for ax in lines[len(rows) :].flat:
            ax.remove()
        for (setting, group), line in zip(rows, lines, strict=False):
            for bias, ax in zip(biases, line, strict=True):
                _panel(ax, group, bias, look)
                ax.set_xlabel(headings.get(bias, bias.replace("_", " ")))
            line[0].set_ylabel("unbiased accuracy ↑")
            line[0].set_title(setting, loc="left", fontsize=9 if len(biases) > 1 else 7.5)
        handles = [
            Line2D([], [], marker=m, linestyle="", color=c, markersize=5, label=name) for name, (c, m) in legend.items()
        ]
        handles.append(Line2D([], [], linestyle="--", color=GREY, linewidth=0.9, label=_FRONT))
        fig.legend(handles=handles, loc="outside right center", ncols=columns)
        caption = (
            "Unbiased accuracy against what is left of the bias; up and left is better. Bars: 95 % t intervals over "
            "seeds, without the sampling of test. Dashed: the Pareto front of the means over common seeds; hollow: "
            "dominated by a point on it, or without all of these seeds."
        )
        return save(fig, folder, "accuracy_against_bias", caption)


def _panel(ax: Axes, group: pd.DataFrame, bias: str, look: dict[str, tuple[str, str]]) -> None:
    values_of = by(group, "method", ["seed", bias, _ACCURACY])
    seeds = common_seeds({method: values[:, 0].tolist() for method, values in values_of.items()})
    compared = {str(method) for method, values in values_of.items() if seeds and set(seeds) <= set(values[:, 0])}
    points = {}
    for method, values in values_of.items():
        table = values[np.isin(values[:, 0], seeds)] if str(method) in compared else values
        points[str(method)] = np.abs(table[:, 1]), table[:, 2]
    if not points:
        absent(ax)
        return
    means = {method: (float(x.mean()), float(y.mean())) for method, (x, y) in points.items()}
    best = front({method: mean for method, mean in means.items() if method in compared})
    for method, mean in means.items():
        colour, marker = look[method]
        face = colour if method in best else "white"
        ax.plot(*mean, marker, color=colour, markersize=5, markerfacecolor=face, markeredgewidth=1, zorder=3)
    colours = [look[method][0] for method in points]
    middle = np.array(list(means.values()))
    x, y = (np.array([interval(values[i]) for values in points.values()]) for i in (0, 1))
    ax.hlines(middle[:, 1], x[:, 0], x[:, 1], colors=colours, linewidth=0.9, zorder=2.5)
    ax.vlines(middle[:, 0], y[:, 0], y[:, 1], colors=colours, linewidth=0.9, zorder=2.5)
    corners = np.array([means[method] for method in best]).reshape(-1, 2)
    ax.plot(*corners.T, drawstyle="steps-post", linestyle="--", color=GREY, linewidth=0.9, zorder=2)
    ax.margins(0.08)


def front(means: dict[str, tuple[float, float]]) -> list[str]:
    """Return the methods that no other dominates, by rising bias: `means` are (bias, accuracy)."""
    best, highest = [], -np.inf
    for method, (_, accuracy) in sorted(means.items(), key=lambda item: (item[1][0], -item[1][1])):
        if accuracy > highest:
            best.append(method)
            highest = accuracy
    return best
