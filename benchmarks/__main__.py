"""`python -m benchmarks [name ...]`: run the benchmarks, print their tables, keep them in benchmarks/README.md."""

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


def sections() -> dict[str, str]:
    """What benchmarks/README.md holds, by benchmark."""
    text = (HERE / "README.md").read_text() if (HERE / "README.md").is_file() else ""
    parts = [part.partition("\n") for part in text.split("\n## ")[1:]]
    return {name.strip(): body.strip() for name, _, body in parts}


def main() -> None:
    """Run all benchmarks, or those named, and put each one's table in its section as soon as it is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help=f"of {', '.join(NAMES)} (default: all)")
    for name in parser.parse_args().names or NAMES:
        print(f"{name} ...", flush=True)
        rows: list[Row] = []
        for row in importlib.import_module(f"benchmarks.bench_{name}").rows():
            print(f"  {row.what}: {row.ours:.3g} s, {row.other}: {row.theirs or float('nan'):.3g} s", flush=True)
            rows.append(row)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        made = f"Python {platform.python_version()}, torch {torch.__version__}, {machine}; commit {commit()}."
        text = {**sections(), name: f"{table(rows)}\n\n{made}"}
        body = "".join(f"\n## {known}\n\n{text[known]}\n" for known in NAMES if known in text)
        (HERE / "README.md").write_text(
            "# Benchmarks\n\nEach section is one run: ours and the other on the same data, medians. Written by "
            f"`make bench`, or `python -m benchmarks {name}` for one.\n{body}"
        )
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
