"""`python -m benchmarks [name ...]`: run the benchmarks, print one table, keep it in benchmarks/README.md."""

import argparse
import importlib
import os
import platform
from pathlib import Path

import pandas as pd
import torch

from benchmarks.timing import Row
from efface.experiment import commit

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


def main() -> None:
    """Run all benchmarks, or those named; only a full run is kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help=f"of {', '.join(NAMES)} (default: all)")
    names = parser.parse_args().names or NAMES
    rows: list[Row] = []
    for name in names:
        print(f"{name} ...", flush=True)
        rows += importlib.import_module(f"benchmarks.bench_{name}").rows()
    print(table(rows))
    if names == NAMES:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        (HERE / "README.md").write_text(
            "# Benchmarks\n\nEach row is one process and one run: ours and the other on the same data, medians. "
            f"Written by `make bench`.\n\n{table(rows)}\n\n"
            f"Python {platform.python_version()}, torch {torch.__version__}, {machine}; commit {commit()}.\n"
        )


if __name__ == "__main__":
    main()
