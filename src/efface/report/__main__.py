"""`python -m efface.report results`: collect the records below a folder, print one table, write it and figures."""

import argparse
import sys
from pathlib import Path

from efface.report import figure, layers, table
from efface.report.records import collect


def main(argv: list[str] | None = None) -> int:
    """Write `runs.csv`, `table.md`, `table.csv`, `table.tex` and the figures; print the table."""
    parser = argparse.ArgumentParser(prog="python -m efface.report", description=__doc__)
    parser.add_argument("results", nargs="?", default="results", type=Path, help="folder of records (default: results)")
    parser.add_argument("--out", type=Path, help="where to write (default: <results>/report)")
    options = parser.parse_args(argv)
    out = options.out or options.results / "report"
    try:
        runs, problems = collect(options.results)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    made = table.build(runs)
    runs.to_csv(out / "runs.csv", index=False)
    made.cells.to_csv(out / "table.csv")
    (out / "table.md").write_text(made.markdown())
    (out / "table.tex").write_text(made.latex())
    figures = [*figure.accuracy_against_bias(runs, out), *figure.probe_against_rank(runs, out)]
    figures += layers.draw(layers.collect(options.results), out)
    print(made.markdown())
    names = ["table.md", "table.csv", "table.tex", "runs.csv", *(path.name for path in figures)]
    print(f"report: {out}  ({', '.join(names)})")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
