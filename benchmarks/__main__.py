"""`python -m benchmarks [name ...]`: run the benchmarks, keep them in results.json, write README.md."""

import argparse
import importlib
import os
import platform
from pathlib import Path

import torch

from benchmarks import pages
from benchmarks.timing import Row, Section
from efface.runs.provenance import commit

NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def measured(name: str, *sizes: int) -> Section:
    """Run one benchmark, of other sizes than its own if any are given, and say what each row took as soon as known."""
    print(f"{name} ...", flush=True)
    rows: list[Row] = []
    for row in importlib.import_module(f"benchmarks.bench_{name}").rows(*sizes):
        beside = "" if row.theirs is None else f", {row.other}: {row.theirs:.3g} s"
        print(f"  {row.what}: {row.ours:.3g} s{beside}", flush=True)
        rows.append(row)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    made = f"Python {platform.python_version()}, torch {torch.__version__}, {machine}; commit {commit()}."
    return Section(rows=tuple(rows), made=made)


def main() -> None:
    """Run all benchmarks, or those named, and write each one's results as soon as it is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--gather", action="store_true", help="run none: write README.md and its plots anew")
    parser.add_argument("--rows", type=int, help="of embeddings: how many rows the shards have (default: 10 million)")
    options = parser.parse_args()
    if options.rows is not None and options.names != ["embeddings"]:
        parser.error("--rows is for embeddings alone: python -m benchmarks embeddings --rows 1000000")
    sizes = [] if options.rows is None else [options.rows]
    for name in [] if options.gather else options.names or NAMES:
        section = measured(name, *sizes)
        pages.store(name, section)
        pages.write(NAMES)
        print(pages.table(section.rows), flush=True)
    if options.gather:
        pages.write(NAMES)


if __name__ == "__main__":
    main()
