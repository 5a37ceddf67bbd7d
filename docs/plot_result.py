"""Draw the plot at the top of the README from the runs of experiments/erasers: `python docs/plot_result.py`."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
NAMES = {
    "none": ("base model", (-8, 8), "right"),
    "inlp": ("INLP", (0, 9), "center"),
    "leace": ("LEACE", (10, 4), "left"),
    "leace_orth": ("orthogonal projection (SAL)", (10, -3), "left"),
}
"""Label, its offset in points, and its alignment."""


def main() -> None:
    runs = pd.read_csv(ROOT / "experiments" / "erasers" / "runs.csv")
    runs = runs[runs["dataset"].str.contains(r"bias_ratio=0\.99$")]
    fig, ax = plt.subplots(figsize=(6.4, 2.9), layout="constrained")
    for name, (label, offset, side) in NAMES.items():
        group = runs[runs["method_name"] == name]
        x, y = group["probe_information"], group["unbiased_accuracy"]
        colour = "#D55E00" if name == "leace" else "#555555"
        ax.errorbar(x.mean(), y.mean(), xerr=x.std(), yerr=y.std(), fmt="o", color=colour, capsize=2)
        ax.annotate(label, (x.mean(), y.mean()), offset, textcoords="offset points", ha=side, color=colour)
    ax.set(
        xlabel="bits of colour that a linear probe reads from the features (of 3.3)  ←",
        ylabel="unbiased accuracy  ↑", xlim=(-0.15, 3.5), ylim=(0.35, 0.9),
    )  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    fig.savefig(ROOT / "docs" / "result.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
