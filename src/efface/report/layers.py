"""What a probe reads behind every layer of a language model: a tidy table and a figure."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from efface.record import RECORD, Record

PANELS = {"probe_information": "probe information, bits", "probe_accuracy": "probe accuracy"}


def collect(results: Path) -> pd.DataFrame:
    """A row for each layer of each finished run below a folder; empty if no record tells of layers.

    Columns: dataset, model, method, id, seed, layer (from 0, in the order in which they run), bits_per_byte of the run,
    and what the record tells of the layer: path, rank, probe_information, probe_accuracy, probe_majority, max_abs_cov,
    fit_information.
    """
    rows = []
    for path in sorted(results.rglob(RECORD)):
        try:
            record = Record.read(path)
        except ValueError:  # said where runs are collected
            continue
        names = {node: record.config[node]["name"] for node in ("dataset", "model", "method")}
        run = {**names, "id": record.id, "seed": record.seed, "bits_per_byte": record.metrics.get("bits_per_byte")}
        rows += [{**run, "layer": i, **layer} for i, layer in enumerate(record.info.get("layers", []))]
    return pd.DataFrame(rows)


def draw(layers: pd.DataFrame, folder: Path) -> list[Path]:
    """`layers.csv` and the figure `probe_by_layer` of `collect`'s table, a row of panels for each data set and model.

    Lines are means over seeds, with standard deviations; dotted, the share of the most frequent tag.
    """
    if len(layers) == 0:
        return []
    layers.to_csv(folder / "layers.csv", index=False)
    probed = layers.dropna(subset="probe_information") if "probe_information" in layers else layers[:0]
    settings = list(probed.groupby(["dataset", "model"], sort=True))
    if not settings:
        return [folder / "layers.csv"]
    size = (9, 3.2 * len(settings))
    fig, axes = plt.subplots(len(settings), len(PANELS), figsize=size, squeeze=False, layout="constrained")
    for (setting, group), row in zip(settings, axes, strict=True):
        for (metric, label), ax in zip(PANELS.items(), row, strict=True):
            for i, (method, points) in enumerate(group.groupby("method", sort=True)):
                by_layer = points.astype({metric: float}).groupby("layer")[metric]
                ax.errorbar(
                    by_layer.mean().index, by_layer.mean(), yerr=by_layer.std().fillna(0), fmt="o-", color=f"C{i % 10}",
                    capsize=2, markersize=4, linewidth=1, label=method,
                )  # fmt: skip
            if metric == "probe_accuracy":
                ax.axhline(float(group["probe_majority"].astype(float).mean()), linestyle=":", color="0.5")
            ax.set(xlabel="normalisation, from the first", ylabel=label)
            ax.grid(alpha=0.25)
        row[0].set_title(" · ".join(map(str, setting)), loc="left", fontsize=9)
        row[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    paths = [folder / f"probe_by_layer.{kind}" for kind in ("png", "svg")]
    for path in paths:
        fig.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    plt.close(fig)
    return [folder / "layers.csv", *paths]
