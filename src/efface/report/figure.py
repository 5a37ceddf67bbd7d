"""Accuracy against bias, a point for each method."""

from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

PANELS = (
    ("counterfactual_bias", "counterfactual bias"),
    ("probe_information", "probe information, bits"),
)


def accuracy_against_bias(runs: pd.DataFrame, folder: Path) -> list[Path]:
    """Unbiased accuracy over counterfactual bias and over what a probe reads, with standard deviations over seeds.

    One row of panels for each (dataset, model, training); up and left is better. Writes a PNG and an SVG, the same
    bytes for the same runs, and returns their paths.
    """
    done = runs[runs["status"] == "done"]
    settings = list(done.groupby(["dataset", "model", "training"], sort=True))
    if not settings:
        return []
    with plt.rc_context(
        {"svg.hashsalt": "efface", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        fig, axes = plt.subplots(
            len(settings), 2, figsize=(9, 3.4 * len(settings)), squeeze=False, layout="constrained", sharey="row"
        )
        for (setting, group), row in zip(settings, axes, strict=True):
            methods = sorted(group["method"].unique())
            colours = {method: f"C{i % 10}" for i, method in enumerate(methods)}
            for (metric, label), ax in zip(PANELS, row, strict=True):
                for method in methods:
                    points = group.loc[group["method"] == method, [metric, "unbiased_accuracy"]].astype(float).dropna()
                    if len(points) == 0:
                        continue
                    mean, std = points.mean(), points.std().fillna(0)
                    ax.errorbar(
                        mean[metric], mean["unbiased_accuracy"], xerr=std[metric], yerr=std["unbiased_accuracy"],
                        fmt="o", color=colours[method], capsize=2, markersize=6,
                    )  # fmt: skip
                ax.set_xlabel(f"{label} (less is better)")
                ax.grid(alpha=0.25)
                if not ax.has_data():
                    ax.text(0.5, 0.5, "not defined here", ha="center", va="center", transform=ax.transAxes)
            row[0].set_ylabel("unbiased accuracy")
            row[0].set_title(" · ".join(map(str, setting)), loc="left", fontsize=9)
            handles = [Line2D([], [], marker="o", linestyle="", color=colours[m], label=m) for m in methods]
            row[1].legend(handles=handles, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        paths = [folder / f"accuracy_against_bias.{kind}" for kind in ("png", "svg")]
        for path in paths:
            fig.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
        plt.close(fig)
    return paths
