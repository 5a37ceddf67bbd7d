"""`python -m benchmarks [name ...]`: run the benchmarks, print their tables, keep them in benchmarks/README.md."""

import argparse
import importlib
import os
import platform
from pathlib import Path

import pandas as pd
import torch

from benchmarks.timing import Row
from efface.runs.provenance import commit

HERE = Path(__file__).parent
NAMES = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def table(rows: list[Row]) -> str:
    """Markdown."""
    frame = pd.DataFrame(
        {
            "what": [row.what for row in rows],
            "efface, s": [f"{row.ours:.3g}" for row in rows],
            "beside it": [row.other for row in rows],
            "s": ["–" if row.theirs is None else f"{row.theirs:.3g}" for row in rows],
            "times faster": ["–" if row.ratio is None else f"{row.ratio:.1f}" for row in rows],
            "note": [row.note for row in rows],
        }
    )
    return str(frame.to_markdown(index=False, disable_numparse=True, stralign="left"))


def sections() -> dict[str, str]:
    """What benchmarks/README.md holds, by benchmark."""
    text = (HERE / "README.md").read_text() if (HERE / "README.md").is_file() else ""
    parts = [part.partition("\n") for part in text.split("\n## ")[1:]]
    return {name.strip(): body.strip() for name, _, body in parts}


def gathered(text: dict[str, str]) -> pd.DataFrame:
    """All comparisons that have a ratio: `benchmark`, `what`, `beside it`, `times faster`."""
    found = []
    for name, section in text.items():
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if line.startswith("|") and len(cells) >= 5 and cells[4].replace(".", "", 1).isdigit():
                found.append((name, cells[0], cells[2], float(cells[4])))
    return pd.DataFrame(found, columns=["benchmark", "what", "beside it", "times faster"])


def draw(ratios: pd.DataFrame, path: Path) -> None:
    """Every ratio on a logarithmic axis, a row for what was timed, a colour for each benchmark.

    A row has as many points as there are others beside it. Right of the line efface is faster.
    """
    from matplotlib import pyplot as plt

    from efface.report.plots.style import COLOURS, GREY, styled

    names = list(dict.fromkeys(ratios["benchmark"]))
    colours = [COLOURS[names.index(name) % len(COLOURS)] for name in ratios["benchmark"]]
    labels = list(dict.fromkeys(ratios["what"]))
    at = [labels.index(what) for what in ratios["what"]]
    with styled():
        fig, ax = plt.subplots(figsize=(9, 0.19 * len(labels) + 0.8), layout="constrained")
        ax.hlines(at, 1, ratios["times faster"], colors=colours, linewidth=1.4, alpha=0.5)
        ax.scatter(ratios["times faster"], at, color=colours, s=18, zorder=3)
        ax.axvline(1, color=GREY, linewidth=0.8)
        ax.set(xscale="log", ylim=(len(labels) - 0.5, -0.5), xlabel="times faster")
        ax.set_yticks(range(len(labels)), labels, fontsize=6.5)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.grid(visible=False, axis="y")
        fig.savefig(path, dpi=160, metadata={"Software": None})
        plt.close(fig)


def write(text: dict[str, str]) -> None:
    """benchmarks/README.md and its figure, from the sections."""
    ratios = gathered(text)
    body = "".join(f"\n## {known}\n\n{text[known]}\n" for known in NAMES if known in text)
    summary = ratios.to_markdown(index=False, disable_numparse=True, stralign="left")
    (HERE / "README.md").write_text(
        "# Benchmarks\n\nEach section is one run: ours and the other on the same data, medians. Written by "
        f"`make bench`, or `python -m benchmarks name` for one of {', '.join(NAMES)}. The machine and the commit stand "
        f"below each section.\n\n{summary}\n\n![times faster](ratios.png)\n{body}"
    )
    draw(ratios, HERE / "ratios.png")


def main() -> None:
    """Run all benchmarks, or those named, and put each one's table in its section as soon as it is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--gather", action="store_true", help="run none: the table and figure of what is there")
    options = parser.parse_args()
    for name in [] if options.gather else options.names or NAMES:
        print(f"{name} ...", flush=True)
        rows: list[Row] = []
        for row in importlib.import_module(f"benchmarks.bench_{name}").rows():
            print(f"  {row.what}: {row.ours:.3g} s, {row.other}: {row.theirs or float('nan'):.3g} s", flush=True)
            rows.append(row)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        made = f"Python {platform.python_version()}, torch {torch.__version__}, {machine}; commit {commit()}."
        write({**sections(), name: f"{table(rows)}\n\n{made}"})
        print(table(rows), flush=True)
    if options.gather:
        write(sections())


if __name__ == "__main__":
    main()
