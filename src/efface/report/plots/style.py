"""What all plots share: their look, colours of methods, and how they are saved."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from efface.report.labels import method_order

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B5A2B", "#6A3D9A", "#A6A61D", "#1B4F4A")
"""The first six are those of Okabe and Ito, which colour-blind readers tell apart."""
GREY = "#555555"
MARKERS = "osD^vPX<>ph*"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SETTING = ["dataset", "model", "training"]
LONGEST = 80
"""Characters of a label in a plot."""
MOST_PIXELS = 2**16 - 1
"""Of a side of a PNG that matplotlib writes."""

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "efface",
    "svg.fonttype": "path",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "figure.dpi": 100,
    "axes.edgecolor": "#444444",
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a `$` in the name of a run is a dollar
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot on disk."""

    name: str
    caption: str
    paths: tuple[Path, ...]
    """PNG and SVG."""


@contextmanager
def styled() -> Iterator[None]:
    """Apply the look of all plots. A character that the font lacks is drawn as a box, without a warning for each."""
    with plt.rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def legible(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs whose labels fit into a plot: long ones lose their middle, and stay different from each other."""
    texts = {level: _fitted(runs[level].unique()) for level in (*SETTING, "method")}
    return runs.assign(**{level: runs[level].map(fitted) for level, fitted in texts.items()})


def _fitted(labels: Iterable[str]) -> dict[str, str]:
    fitted: dict[str, str] = {}
    for label in labels:
        half = (LONGEST - 1) // 2
        text = label if len(label) <= LONGEST else f"{label[:half]}…{label[-half:]}"
        text = f"\N{NO-BREAK SPACE}{text}" if text.startswith("_") else text  # which a legend would leave out
        same = sum(other.startswith(text) for other in fitted.values()) if text != label else 0
        fitted[label] = f"{text} ({same + 1})" if same else text
    return fitted


def looks(runs: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each method's label: one colour for a name, its markers for its options.

    The model without intervention is grey.
    """
    names = sorted(set(runs["method_name"]) - {"none"})
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)} | {"none": GREY}
    by_label = {}
    for name, group in runs.groupby("method_name", sort=True):
        for i, label in enumerate(sorted(group["method"].unique(), key=method_order)):
            by_label[label] = (colours[name], MARKERS[i % len(MARKERS)])
    return dict(sorted(by_label.items(), key=lambda item: method_order(item[0])))


def room_for(labels: Iterable[str]) -> float:
    """Return the inches that the longest label of a legend or an axis needs, with its marker."""
    return 0.5 + 0.062 * max(map(len, labels), default=0)


def settings(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the runs of each (dataset, model, training), and what to call it: the data set, and what else varies."""
    named = ["dataset", *(level for level in SETTING[1:] if several(runs[level]))]
    return [(" · ".join(group[named].iloc[0]), group) for _, group in runs.groupby(SETTING, sort=True)]


def numbers(runs: pd.DataFrame, key: str) -> np.ndarray:
    """Return the values of one column that are there, as float64."""
    if key not in runs:
        return np.empty(0)
    values = np.asarray(pd.to_numeric(runs[key]), dtype=float)
    return np.asarray(values[~np.isnan(values)])


def by(group: pd.DataFrame, label: str | list[str], keys: Sequence[str]) -> dict[Any, np.ndarray]:
    """Return the values `[n, len(keys)]` of some columns for each value of `label`, where a run has them all."""
    table = np.column_stack([np.asarray(pd.to_numeric(group[key]), dtype=float) for key in keys])
    there = ~np.isnan(table).any(1)
    by_name = {name: table[rows[there[rows]]] for name, rows in group.groupby(label).indices.items()}
    return {name: values for name, values in by_name.items() if len(values)}


class _Powers(LogFormatter):
    """Labels of a logarithmic axis in plain characters, as formulas are not read; which ticks have one is as usual."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        if not super().__call__(x, pos) or x <= 0:  # a tick below the smallest float
            return ""
        if 1e-4 < x < 1e5:
            return f"{x:g}"
        exponent = math.floor(math.log10(x))
        power = "10" + str(exponent).translate(_RAISED)
        return power if x == 10.0**exponent else f"{x / 10.0**exponent:g}·{power}"


def plain_powers(*axes: Axis) -> None:
    """Label logarithmic axes in plain characters."""
    for axis in axes:
        axis.set_major_formatter(_Powers())
        axis.set_minor_formatter(_Powers(labelOnlyBase=False, minor_thresholds=(1.5, 0.4)))


def absent(ax: Axes, text: str = "not defined here") -> None:
    """Say why a panel is empty."""
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color=GREY)
    ax.set(xticks=[], yticks=[])


def save(fig: Figure, folder: Path, name: str, caption: str) -> list[Plot]:
    """Write PNG and SVG and close the figure."""
    paths = tuple(folder / f"{name}.{kind}" for kind in ("png", "svg"))
    if (engine := fig.get_layout_engine()) is not None:
        engine.execute(fig)  # once, for both files
        fig.set_layout_engine("none")
    # As `savefig` does, which however draws everything twice.
    fig.set_dpi(min(200, MOST_PIXELS / max(fig.get_size_inches())))
    FigureCanvasAgg(fig).print_png(paths[0], metadata={"Software": None})  # type: ignore[no-untyped-call]
    FigureCanvasSVG(fig).print_svg(paths[1], metadata={"Date": None})  # type: ignore[no-untyped-call]
    plt.close(fig)
    return [Plot(name=name, caption=caption, paths=paths)]


def several(values: Iterable[Any]) -> bool:
    """Return whether there are two that differ."""
    return len(set(values)) > 1
