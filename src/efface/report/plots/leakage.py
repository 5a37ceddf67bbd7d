"""What probes read: before and after, and against the rank that was removed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from efface.report.labels import method_order
from efface.report.plots.style import (
    GREY,
    MARKERS,
    Plot,
    absent,
    by,
    looks,
    numbers,
    room_for,
    save,
    settings,
    several,
    styled,
)
from efface.report.seeds import interval

PROBES = {"probe_information": ("linear probe", "#0072B2", "o"), "mlp_probe_information": ("MLP probe", "#D55E00", "D")}


_POINT = ["rank", "method"]


def leakage(runs: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw what a linear and a non-linear probe read of the attribute, in bits, before and after each method.

    Before (hollow) is the base model, method `none`, of the same setting, on the seeds that it shares with the method.
    """
    rows = [(s, group) for s, group in settings(runs) if set(group["method_name"]) - {"none"}]
    if not rows or not len(numbers(runs, "probe_information")):
        return []
    heights = [0.5 + 0.26 * group.loc[group["method_name"] != "none", "method"].nunique() for _, group in rows]
    with styled():
        size = (4.6 + room_for(runs["method"]), sum(heights) + 0.75)
        fig, axes = plt.subplots(
            len(rows), 1, figsize=size, squeeze=False, layout="constrained", sharex=True, height_ratios=heights
        )
        for (setting, group), ax in zip(rows, axes[:, 0], strict=True):
            _dumbbells(ax, group)
            ax.set_title(setting, loc="left")
        axes[-1, 0].set_xlabel("information about the attribute, bits")
        handles = [
            Line2D([], [], marker=marker, color=colour, linestyle="", markersize=5, markerfacecolor=face, label=text)
            for name, colour, marker in PROBES.values()
            for face, text in (("white", f"{name}, before"), (colour, f"{name}, after"))
        ]
        fig.legend(handles=handles, loc="outside upper center", ncols=4, columnspacing=1.2, handletextpad=0.2)
        caption = (
            "What probes read of the attribute on test features before (hollow: the base model, on the method's seeds) "
            "and after each method, means over seeds with 95 % t intervals, without the sampling of test. Linear "
            "erasure promises nothing against the MLP probe."
        )
        return save(fig, folder, "leakage", caption)


def _dumbbells(ax: Axes, group: pd.DataFrame) -> None:
    methods = sorted(group.loc[group["method_name"] != "none", "method"].unique(), key=method_order)
    base = group[group["method_name"] == "none"]
    for offset, (key, (_, colour, marker)) in zip((-0.13, 0.13), PROBES.items(), strict=True):
        values_of = by(group, "method", ["seed", key]) if key in group else {}
        points = [(i + offset, values_of[m][:, 1]) for i, m in enumerate(methods) if m in values_of]
        if not points:
            continue
        y, after = [y for y, _ in points], [values.mean() for _, values in points]
        seeds = [values_of[m][:, 0] for m in methods if m in values_of]
        before = [numbers(base[base["seed"].isin(common)], key) for common in seeds]
        start = [values.mean() if len(values) else np.nan for values in before]
        ax.hlines(y, start, after, colors=colour, alpha=0.35, linewidth=1.6, zorder=1)
        ax.plot(start, y, marker, color=colour, markerfacecolor="white", markersize=4.5, zorder=2)
        reach = np.array([interval(values) for _, values in points])
        ax.hlines(y, reach[:, 0], reach[:, 1], colors=colour, linewidth=1, zorder=2.5)
        ax.plot(after, y, marker, color=colour, markersize=4.5, zorder=3)
    ax.axvline(0, color=GREY, linewidth=0.7)
    ax.set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
    ax.grid(visible=False, axis="y")


def probe_against_rank(runs: pd.DataFrame, folder: Path) -> list[Plot]:
    """Draw what a converged probe reads of the attribute, and what the model keeps, against the rank removed.

    One row of panels for each (dataset, model, training) in which a method was run at several ranks; a line for each
    method, with 95 % t intervals over seeds; dotted, what the majority and the base model score. Nothing is
    written where there is no such setting.
    """
    if "rank" not in runs:
        return []
    curves = runs["method"].str.replace(r" rank=\S+", "", regex=True)
    rows = []
    for setting, group in settings(runs.assign(curve=curves)):
        ranked = group[group["method_name"] != "none"].dropna(subset="rank")
        lines = ranked.groupby("curve").filter(lambda curve: several(curve["rank"]))
        if len(lines):  # what has one rank is shown where it lies among the others
            rows.append((setting, group, ranked[ranked["rank"] <= lines["rank"].max()]))
    if not rows:
        return []
    panels = {"probe_accuracy": "probe accuracy", "probe_information": "probe information, bits"}
    panels["unbiased_accuracy"] = "unbiased accuracy"
    look = _curves([ranked for _, _, ranked in rows], runs)
    with styled():
        fig, axes = plt.subplots(
            len(rows), 3, figsize=(7 + room_for(look), 2.5 * len(rows) + 0.2), squeeze=False, layout="constrained"
        )
        for (setting, group, ranked), line in zip(rows, axes, strict=True):
            for (metric, label), ax in zip(panels.items(), line, strict=True):
                _ranks(ax, group, ranked, metric, look)
                ax.set(xlabel="directions removed", ylabel=label)
            line[0].set_title(setting, loc="left")
        handles = [Line2D([], [], marker=m, color=c, markersize=4, label=name) for name, (c, m) in look.items()]
        fig.legend(handles=handles, loc="outside right center")
        caption = (
            "What a converged probe reads, and what the model keeps, against the number of directions removed; means "
            "over seeds with 95 % t intervals. Dotted: the base model, and the majority."
        )
        return save(fig, folder, "probe_against_rank", caption)


def _curves(ranked: Sequence[pd.DataFrame], runs: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each curve, the same in all settings."""
    names = pd.concat(ranked).drop_duplicates("curve").set_index("curve")["method"].sort_index()
    colours = {method: colour for method, (colour, _) in looks(runs).items()}
    return {str(name): (colours[names[name]], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names.index)}


def _ranks(ax: Axes, group: pd.DataFrame, ranked: pd.DataFrame, metric: str, look: dict[str, tuple[str, str]]) -> None:
    if not len(numbers(ranked, metric)):
        absent(ax)
        return
    for name, curve in ranked.groupby("curve", sort=True):
        colour, marker = look[str(name)]
        # A point is one id: where several ranks were asked for and the same one was reached, each has its own.
        points = [(float(rank), values[:, 0]) for (rank, _), values in sorted(by(curve, _POINT, [metric]).items())]
        ranks, means = [rank for rank, _ in points], [values.mean() for _, values in points]
        reach = np.array([interval(values) for _, values in points]).reshape(-1, 2)
        ax.plot(ranks, means, f"{marker}-", color=colour, linewidth=1, markersize=4, zorder=3)
        ax.vlines(ranks, reach[:, 0], reach[:, 1], colors=colour, linewidth=0.9, zorder=2.5)
    levels = {"base model": numbers(group[group["method_name"] == "none"], metric)}
    if metric == "probe_accuracy":
        levels["majority"] = numbers(group, "probe_majority")
    for name, level in levels.items():
        if len(level):
            _dotted(ax, float(level.mean()), name)


def _dotted(ax: Axes, level: float, name: str) -> None:
    """Draw a level with its name."""
    ax.axhline(level, linestyle=":", color=GREY, linewidth=0.9)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
    ax.annotate(
        name,
        (1, level),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=7,
        color=GREY,
        bbox=box,
        zorder=1.5,
    )
