"""`python -m efface.report results`: the records below a folder as tables, plots and one HTML page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from efface.files import scratch
from efface.report import contrasts, experiment, frames, published, render, table
from efface.report.cells import comparable
from efface.report.circumstances import flags
from efface.report.page import page
from efface.report.plots import draw
from efface.report.published import Published
from efface.report.records import Collection, collect
from efface.report.table import Table


def main(argv: list[str] | None = None) -> int:
    """Write `index.html`, `table.md`, `table.csv`, `table.tex`, the plots and `runs.csv`; print the table.

    Folds are pooled, and `pooled.csv` written too.

    Where the folder is an experiment's, with a `README.md`, and the report goes into it, the tables that stand there
    between markers are written too, see `efface.report.experiment`.
    """
    parser = argparse.ArgumentParser(prog="python -m efface.report", description=__doc__)
    parser.add_argument(
        "results",
        nargs="*",
        default=[Path("results")],
        type=Path,
        help="folders of records, or with a runs.csv and perhaps a published.csv; each is reported (default: results)",
    )
    parser.add_argument("--out", type=Path, help="where to write (default: <results>/report)")
    parser.add_argument("--metrics", help="keys of the metrics in the table, with commas (default: all)")
    parser.add_argument(
        "--spread",
        choices=("std", "interval"),
        default="std",
        help="behind each mean: standard deviation over seeds, or half-width of its 95 %% t interval (default: std)",
    )
    parser.add_argument("--published", type=Path, help="published numbers (default: <results>/published.csv, if any)")
    options = parser.parse_args(argv)
    if options.out is not None and len(options.results) > 1:
        parser.error("--out is for one folder of results; without it each gets its own report")
    return max(_report(results, options) for results in options.results)


def _report(results: Path, options: argparse.Namespace) -> int:
    """Report one folder. Returns the exit status."""
    out = options.out or results / "report"
    try:
        collection = collect(results)
        numbers = _published(results, options)
        tables = _made(collection, numbers, options)
        for title, lines in (
            ("left out", collection.problems),
            ("failed", collection.failures),
            ("flagged", flags(collection.runs)),
        ):
            for line in lines:
                print(f"{title}: {line}", file=sys.stderr)
        names = _write(out, tables, collection)
        if options.out is None:
            experiment.write_tables(results / experiment.PAGE, collection, numbers)
    except (FileExistsError, NotADirectoryError):
        print(f"--out: {out} is a file, or lies below one: name a folder", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for made in tables:
        print(render.markdown(made, words=False))
    print(f"report: {out}  ({', '.join(names)})")
    return 1 if collection.problems else 0


def _published(results: Path, options: argparse.Namespace) -> tuple[Published, ...]:
    """Return the published numbers that are named, or that stand in the folder."""
    beside = results / published.PUBLISHED
    source = options.published or (beside if beside.is_file() else None)
    if source and not source.is_file():
        raise FileNotFoundError(f"--published: there is no file {source}: name one, or leave the option out")
    return published.read(source) if source else ()


def _made(collection: Collection, numbers: Sequence[Published], options: argparse.Namespace) -> list[Table]:
    """Return the table of a folder and, where there are folds, that of differences to the base model.

    Published numbers of a data set that was not run are left to the experiment's page.
    """
    metrics = options.metrics.split(",") if options.metrics else None
    made = table.build(
        collection.tabled,
        single=collection.runs,
        published=comparable(numbers, collection.tabled),
        metrics=metrics,
        kind=options.spread,
        failures=collection.failures,
    )
    contrast = contrasts.build(collection.tabled, metrics=metrics, kind=options.spread)
    return [made] if contrast is None else [made, contrast]


def _write(out: Path, tables: Sequence[Table], collection: Collection) -> list[str]:
    """Write all files to a temporary folder and rename them into `out`: a full disk leaves an old report as it was."""
    out.mkdir(parents=True, exist_ok=True)
    with scratch(out, prefix=".report-") as folder:
        plots = draw(collection, folder)
        texts = {
            "index.html": page(tables, collection, plots, out),
            "table.md": "\n".join(map(render.markdown, tables)),
            "table.csv": "\n".join(map(render.to_csv, tables)),
            "table.tex": "\n".join(map(render.latex, tables)),
        }
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        csv_files = frames.write(collection.runs, collection.pooled, collection.beside, folder)
        names = [*texts, *csv_files, *(path.name for plot in plots for path in plot.paths)]
        for file in names:
            (folder / file).replace(out / file)
    return names


if __name__ == "__main__":
    sys.exit(main())
