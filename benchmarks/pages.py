"""Results of benchmarks: kept in results.json, and written as README.md with its plots."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from benchmarks.timing import Row, Section
from efface.files import write_atomically

HERE = Path(__file__).parent
RESULTS, PAGE, RATIOS, LEACE = (HERE / name for name in ("results.json", "README.md", "ratios.png", "leace.png"))
SCALE = HERE.parent / "docs" / "scale.md"


def load(path: Path = RESULTS) -> dict[str, Section]:
    """Return the results by benchmark; none if there is no file."""
    if not path.is_file():
        return {}
    sections = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Section(rows=tuple(Row(**row) for row in section["rows"]), made=section["made"])
        for name, section in sections.items()
    }


def store(name: str, section: Section, path: Path = RESULTS) -> None:
    """Put one benchmark's results in the place of its old ones."""
    sections = load(path) | {name: section}
    text = json.dumps({key: asdict(sections[key]) for key in sorted(sections)}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def table(rows: Sequence[Row]) -> str:
    """Return one benchmark's table as markdown."""
    return _markdown(
        {
            "what": [row.what for row in rows],
            "efface, s": [f"{row.ours:.3g}" for row in rows],
            "beside it": [row.other for row in rows],
            "s": ["–" if row.theirs is None else f"{row.theirs:.3g}" for row in rows],
            "times faster": ["–" if row.ratio is None else f"{row.ratio:.1f}" for row in rows],
            "note": [row.note for row in rows],
        }
    )


def ratios(sections: Mapping[str, Section]) -> pd.DataFrame:
    """Return all comparisons that have a ratio: `benchmark`, `what`, `beside it`, `times faster`."""
    compared = [
        (name, row.what, row.other, row.ratio)
        for name, section in sections.items()
        for row in section.rows
        if row.ratio is not None
    ]
    return pd.DataFrame(compared, columns=["benchmark", "what", "beside it", "times faster"])


def page(sections: Mapping[str, Section], names: Sequence[str]) -> str:
    """Return README.md: a summary of all ratios, then a table for each benchmark."""
    summary = ratios(sections)
    columns = {name: summary[name].tolist() for name in ("benchmark", "what", "beside it")}
    body = "".join(f"\n## {name}\n\n{table(section.rows)}\n\n{section.made}\n" for name, section in sections.items())
    return (
        "# Benchmarks\n\nEach section is one run: ours and the other on the same data, medians. Written by "
        f"`make bench`, or `python -m benchmarks name` for one of {', '.join(names)}, from "
        "[results.json](results.json). The machine and the commit stand below each section.\n\n"
        f"{_markdown({**columns, 'times faster': [f'{ratio:.1f}' for ratio in summary['times faster']]})}\n\n"
        f"![times faster](ratios.png)\n{body}"
    )


def write(names: Sequence[str]) -> None:
    """Write README.md with its plots, and the table of docs/scale.md, from results.json.

    Args:
        names: of all benchmarks that can be run.
    """
    sections = load()
    text = page(sections, names)
    write_atomically(PAGE, lambda path: path.write_text(text, encoding="utf-8"))
    plot_ratios(ratios(sections), RATIOS)
    if "leace" in sections:
        from benchmarks.bench_leace import plot

        plot(sections["leace"].rows, LEACE)
    if "scale" in sections:
        from benchmarks.scale import with_table

        costs = with_table(SCALE.read_text(encoding="utf-8"), sections["scale"].rows)
        write_atomically(SCALE, lambda path: path.write_text(costs, encoding="utf-8"))


def _markdown(columns: Mapping[str, Sequence[str]]) -> str:
    return str(pd.DataFrame(dict(columns)).to_markdown(index=False, disable_numparse=True, stralign="left"))


def plot_ratios(compared: pd.DataFrame, path: Path) -> None:
    """Draw every ratio on a logarithmic axis, a row for what was timed, a colour for each benchmark.

    A row has as many points as there are others beside it. Right of the line efface is faster.
    """
    from matplotlib import pyplot as plt

    from efface.report.plots.style import COLOURS, GREY, styled

    names = list(dict.fromkeys(compared["benchmark"]))
    colours = [COLOURS[names.index(name) % len(COLOURS)] for name in compared["benchmark"]]
    labels = list(dict.fromkeys(compared["what"]))
    y = [labels.index(what) for what in compared["what"]]
    with styled():
        fig, ax = plt.subplots(figsize=(9, 0.19 * len(labels) + 0.8), layout="constrained")
        ax.hlines(y, 1, compared["times faster"], colors=colours, linewidth=1.4, alpha=0.5)
        ax.scatter(compared["times faster"], y, color=colours, s=18, zorder=3)
        ax.axvline(1, color=GREY, linewidth=0.8)
        ax.set(xscale="log", ylim=(len(labels) - 0.5, -0.5), xlabel="times faster")
        ax.set_yticks(range(len(labels)), labels, fontsize=6.5)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.grid(visible=False, axis="y")
        fig.savefig(path, dpi=160, metadata={"Software": None})
        plt.close(fig)
