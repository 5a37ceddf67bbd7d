"""Every committed table and plot of an experiment is what `make tables` makes of its committed files."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG
from tests.conftest import CONF

from efface.report import experiment
from efface.report.__main__ import main
from efface.report.records import collect

EXPERIMENTS = sorted(path.parent for path in (CONF.parent / "experiments").glob("*/runs.csv"))


def committed(folder: Path) -> dict[str, bytes]:
    """What is committed of a report."""
    return {path.name: path.read_bytes() for path in (folder / "report").glob("*") if path.suffix in (".md", ".png")}


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda path: path.name)
def test_a_report_and_its_page_are_rebuilt_from_committed_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SVGs are in no commit, and take half of the time.
    monkeypatch.setattr(FigureCanvasSVG, "print_svg", lambda self, path, **options: Path(path).write_text("<svg/>"))
    copy = tmp_path / folder.name
    copy.mkdir()
    for path in [*folder.glob("*.csv"), folder / experiment.PAGE]:
        shutil.copy(path, copy)
    page = (copy / experiment.PAGE).read_text()
    emptied = re.sub(r"(<!-- table: [^>]*-->\n).*?(<!-- /table -->)", r"\1\2", page, flags=re.DOTALL)
    assert emptied != page  # each page has a table
    (copy / experiment.PAGE).write_text(emptied)

    assert main([str(copy)]) == 0

    assert (copy / experiment.PAGE).read_text() == page
    wanted, made = committed(folder), committed(copy)
    assert made.keys() == wanted.keys()
    for name, content in made.items():
        assert content == wanted[name], name
    assert b"do not say why" not in made["table.md"]


RUNS = pd.DataFrame(
    {
        "dataset": "digits",
        "model": "mlp",
        "training": "erm",
        "evaluation": "default",
        "method": ["none", "none", "leace", "leace", "rlace"],
        "id": ["0", "0", "1", "2", "3"],
        "seed": [0, 1, 0, 0, 0],
        "status": ["done"] * 4 + ["failed"],
        "reason": None,
        "accuracy": [0.5, 0.7, 0.8, 0.9, None],
        "method_options": ["{}", "{}", '{"rank": 1}', '{"rank": 10}', '{"rank": 1}'],
    }
)


@pytest.fixture
def runs(tmp_path: Path) -> pd.DataFrame:
    RUNS.to_csv(tmp_path / "runs.csv", index=False)
    return collect(tmp_path).runs


def table(words: str, runs: pd.DataFrame) -> list[str]:
    """The lines of a table."""
    text = experiment.with_tables(f"before\n<!-- table: {words} -->\nold\n<!-- /table -->\nafter\n", runs)
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    return lines[4:-2]


def test_a_table_has_the_rows_and_columns_that_its_marker_names(runs: pd.DataFrame) -> None:
    assert table("rows=method,method.rank:directions_removed metrics=accuracy,n", runs) == [
        "| `none` |  | 0.600 ± 0.141 | 2 |",
        "| `leace` | 1 | 0.800 | 1 |",
        "| `leace` | 10 | 0.900 | 1 |",
        "| `rlace` | 1 | – | 0 of 1 |",
    ]
    assert table("rows=method.rank method=leace method.rank=10.0,1 metrics=accuracy", runs) == [
        "| 10 | 0.900 |",
        "| 1 | 0.800 |",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rows=method metrics=accuracy", "the row leace would pool ids 1, 2"),
        ("rows=method method=inlp metrics=accuracy", "no run meets the conditions"),
        ("rows=method method=none metrics=acuracy", "there is no metric acuracy"),
        ("rows=colour metrics=accuracy", "there is no colour"),
        ("rows=method", "name rows=... and metrics=..."),
    ],
)
def test_a_marker_that_cannot_be_met_is_named(runs: pd.DataFrame, words: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"README.md, table: {words}: {message}")):
        table(words, runs)


def test_a_marker_without_an_end_is_named(runs: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="each <!-- table"):
        experiment.with_tables("<!-- table: rows=method metrics=n -->\n", runs)
