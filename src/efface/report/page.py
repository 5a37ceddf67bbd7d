"""One self-contained HTML page: tables, plots, where each number comes from. The same bytes for the same input."""

import base64
import html
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd

from efface.metrics import METRICS
from efface.report import render
from efface.report.circumstances import one_line
from efface.report.plots import Plot
from efface.report.records import Collection
from efface.report.table import Table

_LEFT_OUT = ("_options", "val_", "seconds_", "cache_", "reasons", "method_name", "evaluation", "_low", "_high")
"""Parts of the names of columns that the page's list of runs leaves to runs.csv."""


def page(tables: Sequence[Table], collection: Collection, plots: Sequence[Plot], out: Path) -> str:
    """Return the page of the tables. It fetches nothing: plots are inside, and a content policy forbids the rest.

    Args:
        tables: the first of them has the title.
        collection: its runs.
        plots: drawn already.
        out: the folder that the page goes into, from where it links the passports of runs.
    """
    links = {run: _link(passport, out) for run, passport in collection.passports.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    recorded = [metric for metric in METRICS if metric.key in collection.runs]
    return environment.get_template("page.html").render(
        title=tables[0].title,
        tables=[(each, render.to_html(each, name=f"efface{i or ''}")) for i, each in enumerate(tables)],
        problems=collection.problems,
        facts=_facts(collection.runs),
        runs=_runs(collection.runs, links),
        metrics=recorded,
        plots=[(plot.name, plot.caption, _uri(plot)) for plot in plots],
    )


def _uri(plot: Plot) -> str:
    svg = next(path for path in plot.paths if path.suffix == ".svg")
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def _facts(runs: pd.DataFrame) -> str:
    done = runs[runs["status"] == "done"]
    commits = sorted(set(done["commit"].dropna())) if "commit" in done else []
    counts = {"run": len(done), "method": runs["method"].nunique(), "seed": done["seed"].nunique()}
    parts = [
        *(f"{count} {what}{'s' if count != 1 else ''}" for what, count in counts.items()),
        *([f"code at {', '.join(map(one_line, commits))}"] if commits else []),
    ]
    return " · ".join(parts)


def _link(file: Path, out: Path) -> str:
    """Return the address of a file, relative to a folder where there is a way."""
    try:
        return quote(Path(os.path.relpath(file, out)).as_posix())
    except ValueError:  # on another drive
        return file.absolute().as_uri()


def _runs(runs: pd.DataFrame, links: Mapping[str, str]) -> str:
    """Return the list of runs as HTML, without the columns that hold nothing.

    Args:
        runs: with a `path` each.
        links: to the passports of some, by that path.
    """
    names = [
        name for name in map(str, runs) if runs[name].notna().any() and not any(part in name for part in _LEFT_OUT)
    ]
    names += ["seconds_method"] if "seconds_method" in runs else []
    head = "".join(f'<th scope="col">{html.escape(name.replace("_", " "))}</th>' for name in names)
    columns = [[_cell(value) for value in runs[name].tolist()] for name in names]
    if links:
        head += '<th scope="col">passport</th>'
        columns.append([_linked(links.get(str(path))) for path in runs["path"].tolist()])
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    return f'<table class="sortable runs">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'


def _linked(address: str | None) -> str:
    return "<td></td>" if address is None else f'<td class="words"><a href="{html.escape(address)}">passport</a></td>'


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "<td></td>"
    if isinstance(value, float):
        return f"<td>{value:.4g}</td>"
    words = "" if isinstance(value, int) else ' class="words"'
    return f"<td{words}>{html.escape(one_line(value))}</td>"
