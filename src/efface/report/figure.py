"""Figures of runs: accuracy against bias, and what a probe reads against the rank that was removed."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

PANELS = (
    ("counterfactual_bias", "counterfactual bias"),
    ("probe_information", "probe information, bits"),
)
_STYLE: Any = {"svg.hashsalt": "efface", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def accuracy_against_bias(runs: pd.DataFrame, folder: Path) -> list[Path]:
    """Unbiased accuracy over counterfactual bias and over what a probe reads, with standard deviations over seeds.

    One row of panels for each (dataset, model, training); up and left is better. Writes a PNG and an SVG, the same
    bytes for the same runs, and returns their paths.
    """
    done = runs[runs["status"] == "done"]
    if "unbiased_accuracy" not in runs:  # language models
        return []
    settings = list(done.groupby(["dataset", "model", "training"], sort=True))
    if not settings:
        return []
    with plt.rc_context(_STYLE):
        # High and wide enough for a legend of many methods.
        most = max(group["method"].nunique() for _, group in settings)
        columns = -(-most // 20)
        fig, axes = plt.subplots(
            len(settings), 2, figsize=(7.5 + 1.5 * columns, max(3.4, 0.18 * min(most, 20)) * len(settings)),
            squeeze=False, layout="constrained", sharey="row",
        )  # fmt: skip
        for (setting, group), row in zip(settings, axes, strict=True):
            methods = sorted(group["method"].unique())
            colours = {method: f"C{i % 10}" for i, method in enumerate(methods)}
            markers = {method: "os^Dv"[i // 10 % 5] for i, method in enumerate(methods)}
            for (metric, label), ax in zip(PANELS, row, strict=True):
                for method in methods:
                    points = group.loc[group["method"] == method, [metric, "unbiased_accuracy"]].astype(float).dropna()
                    if len(points) == 0:
                        continue
                    mean, std = points.mean(), points.std().fillna(0)
                    ax.errorbar(
                        mean[metric], mean["unbiased_accuracy"], xerr=std[metric], yerr=std["unbiased_accuracy"],
                        fmt=markers[method], color=colours[method], capsize=2, markersize=6,
                    )  # fmt: skip
                ax.set_xlabel(f"{label} (less is better)")
                ax.grid(alpha=0.25)
                if not ax.has_data():
                    ax.text(0.5, 0.5, "not defined here", ha="center", va="center", transform=ax.transAxes)
            row[0].set_ylabel("unbiased accuracy")
            row[0].set_title(" · ".join(map(str, setting)), loc="left", fontsize=9)
            handles = [Line2D([], [], marker=markers[m], linestyle="", color=colours[m], label=m) for m in methods]
            row[1].legend(
                handles=handles, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns
            )
        return _save(fig, folder, "accuracy_against_bias")


def probe_against_rank(runs: pd.DataFrame, folder: Path) -> list[Path]:
    """What a converged probe reads of the attribute, and what the model keeps, against the rank that was removed.

    One row of panels for each (dataset, model, training) in which a method was run at several ranks; a line for each
    method, with standard deviations over seeds; dotted, what the majority and the base model score. Nothing is written
    where there is no such setting.
    """
    done = runs[runs["status"] == "done"]
    settings = [
        (setting, group)
        for setting, group in done.groupby(["dataset", "model", "training"], sort=True)
        if (group.dropna(subset="rank").groupby("method_name")["rank"].agg(lambda ranks: len(set(ranks))) > 1).any()
    ]
    if not settings:
        return []
    panels = {"probe_accuracy": "probe accuracy", "probe_information": "probe information, bits"}
    panels["unbiased_accuracy"] = "unbiased accuracy"
    with plt.rc_context(_STYLE):
        fig, axes = plt.subplots(
            len(settings), 3, figsize=(12, 3.2 * len(settings)), squeeze=False, layout="constrained"
        )
        for (setting, group), row in zip(settings, axes, strict=True):
            ranked = group.dropna(subset="rank")
            methods = sorted(ranked["method_name"].unique())
            for (metric, label), ax in zip(panels.items(), row, strict=True):
                for i, method in enumerate(methods):
                    points = ranked[ranked["method_name"] == method].astype({metric: float}).groupby("rank")[metric]
                    ax.errorbar(
                        points.mean().index, points.mean(), yerr=points.std().fillna(0), fmt="o-", color=f"C{i % 10}",
                        capsize=2, markersize=4, linewidth=1, label=method,
                    )  # fmt: skip
                levels = {"base model": group.loc[group["method_name"] == "none", metric]}
                if metric == "probe_accuracy":
                    levels["majority"] = group["probe_majority"]
                for name, level in levels.items():
                    if len(level):
                        ax.axhline(float(level.astype(float).mean()), linestyle=":", color="0.5")
                        ax.annotate(name, (1, float(level.astype(float).mean())), xycoords=("axes fraction", "data"),
                                    ha="right", va="bottom", fontsize=7, color="0.4")  # fmt: skip
                ax.set(xlabel="directions removed", ylabel=label)
                ax.grid(alpha=0.25)
            row[0].set_title(" · ".join(map(str, setting)), loc="left", fontsize=9)
            row[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return _save(fig, folder, "probe_against_rank")


def _save(fig: Figure, folder: Path, name: str) -> list[Path]:
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        fig.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    plt.close(fig)
    return paths
