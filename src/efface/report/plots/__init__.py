"""Plots of runs. Each function writes a PNG and an SVG, the same bytes for the same runs, or nothing."""

from pathlib import Path

from efface.report.plots.influence import influence
from efface.report.plots.layers import loss_by_layer, probe_by_layer
from efface.report.plots.leakage import leakage, probe_against_rank
from efface.report.plots.plane import words_on_a_plane
from efface.report.plots.style import Plot, legible
from efface.report.plots.tradeoff import accuracy_against_bias
from efface.report.plots.training import time_against_size, training_curves
from efface.report.records import Collection

__all__ = [
    "Plot",
    "accuracy_against_bias",
    "draw",
    "influence",
    "leakage",
    "loss_by_layer",
    "probe_against_rank",
    "probe_by_layer",
    "time_against_size",
    "training_curves",
    "words_on_a_plane",
]


def draw(collection: Collection, folder: Path) -> list[Plot]:
    """Draw all plots for which there are data, in the order in which they are read."""
    runs, single = (frame[frame["status"] == "done"] for frame in (collection.tabled, collection.runs))
    if len(runs) == 0:
        return []
    runs, single = legible(runs), legible(single)
    return [
        *accuracy_against_bias(runs, folder),
        *leakage(runs, folder),
        *probe_against_rank(runs, folder),
        *probe_by_layer(single, collection.layers, folder),
        *loss_by_layer(single, folder),
        *words_on_a_plane(single, collection.words, folder),
        *time_against_size(runs, folder),
        *influence(single, collection.arrays, folder),
        *training_curves(single, collection.histories, folder),
    ]
