"""Every committed table and plot is what `make tables` makes of committed files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG
from tests.conftest import CONF

from efface.report import experiment
from efface.report.__main__ import main
from efface.report.records import collect

ROOT = CONF.parent
EXPERIMENTS = sorted(path.parent for path in (ROOT / "experiments").glob("*/runs.csv"))
MARKED = re.compile(r"(<!-- (table|published|neighbours): [^>]*-->\n).*?(<!-- /\2 -->)", re.DOTALL)
SCALE = re.compile(r"(<!-- scale -->\n).*?(<!-- /scale -->)", re.DOTALL)


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
    emptied = MARKED.sub(r"\1\3", page)
    assert emptied != page  # each page has a table
    (copy / experiment.PAGE).write_text(emptied)

    assert main([str(copy)]) == 0

    assert (copy / experiment.PAGE).read_text() == page
    wanted, made = committed(folder), committed(copy)
    assert made.keys() == wanted.keys()
    for name, content in made.items():
        assert content == wanted[name], name
    assert b"do not say why" not in made["table.md"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_make_tables_rebuilds_every_table_and_plot(tmp_path: Path) -> None:
    names = ["benchmarks", "docs", "experiments", "src", "Makefile", "constraints.txt", "pyproject.toml"]
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    made = [
        *(path for folder in EXPERIMENTS for path in (folder / "report").iterdir() if path.suffix in (".md", ".png")),
        *ROOT.glob("docs/*.png"),
        *ROOT.glob("benchmarks/*.png"),
        ROOT / "benchmarks" / "README.md",
    ]
    for folder in EXPERIMENTS:
        shutil.rmtree(tmp_path / folder.relative_to(ROOT) / "report")
    for path in made:
        (tmp_path / path.relative_to(ROOT)).unlink(missing_ok=True)
    pages = [*(folder / experiment.PAGE for folder in EXPERIMENTS), ROOT / "docs" / "scale.md"]
    for page in pages:
        text = page.read_text()
        emptied = SCALE.sub(r"\1\2", MARKED.sub(r"\1\3", text))
        assert emptied != text
        (tmp_path / page.relative_to(ROOT)).write_text(emptied)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path / "src"}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()

    done = subprocess.run(["make", "tables", "VENV=.venv"], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-3000:]
    assert "pip install" not in done.stdout
    for path in [*made, *pages]:
        assert (tmp_path / path.relative_to(ROOT)).read_bytes() == path.read_bytes(), path.relative_to(ROOT)


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
