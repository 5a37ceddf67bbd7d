"""`python -m efface.report results`: the records below a folder as tables, figures and one HTML page."""

import argparse
import sys
from pathlib import Path

from efface.report import published, render, table
from efface.report.figures import draw
from efface.report.page import page
from efface.report.records import RUNS, collect, flags


def main(argv: list[str] | None = None) -> int:
    """Write `index.html`, `table.md`, `table.csv`, `table.tex`, the figures and `runs.csv`; print the table."""
    parser = argparse.ArgumentParser(prog="python -m efface.report", description=__doc__)
    parser.add_argument(
        "results", nargs="*", default=[Path("results")], type=Path,
        help="folders of records, or with a runs.csv and perhaps a published.csv; each is reported (default: results)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="where to write (default: <results>/report)")
    parser.add_argument("--metrics", help="keys of the metrics in the table, with commas (default: all)")
    parser.add_argument(
        "--spread", choices=("std", "interval"), default="std",
        help="behind each mean: standard deviation, or 95 %% bootstrap interval, over seeds (default: std)",
    )  # fmt: skip
    parser.add_argument("--published", type=Path, help="published figures (default: <results>/published.csv)")
    options = parser.parse_args(argv)
    if options.out is not None and len(options.results) > 1:
        parser.error("--out is for one folder of results; without it each gets its own report")
    return max(_report(results, options) for results in options.results)


def _report(results: Path, options: argparse.Namespace) -> int:
    out = options.out or results / "report"
    try:
        collection = collect(results)
        made = table.build(
            collection.runs,
            published=published.read(options.published or results / published.PUBLISHED),
            metrics=options.metrics.split(",") if options.metrics else None,
            kind=options.spread,
            failures=collection.failures,
        )
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        print(f"--out: {out} is a file, or lies below one: name a folder", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for title, lines in (
        ("left out", collection.problems), ("failed", collection.failures), ("flagged", flags(collection.runs)),
    ):  # fmt: skip
        for line in lines:
            print(f"{title}: {line}", file=sys.stderr)
    figures = draw(collection, out)
    collection.runs.to_csv(out / RUNS, index=False)
    texts = {
        "index.html": page(made, collection, figures), "table.md": render.markdown(made),
        "table.csv": render.to_csv(made), "table.tex": render.latex(made),
    }  # fmt: skip
    for name, text in texts.items():
        (out / name).write_text(text)
    print(render.markdown(made, words=False))
    print(f"report: {out}  ({', '.join([*texts, RUNS, *(path.name for f in figures for path in f.paths)])})")
    return 1 if collection.problems else 0


if __name__ == "__main__":
    sys.exit(main())
