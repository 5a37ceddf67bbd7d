"""Published figures on pages: tables of `published.csv`, and none that is not from it."""

import re
from pathlib import Path

import pytest
from tests.conftest import CONF

from efface.report import published
from efface.report.published import Published
from efface.report.quoted import with_quotes

ROOT = CONF.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*/README.md")])
GENERATED = re.compile(r"<!-- (table|published|neighbours): [^>]*-->\n.*?<!-- /\1 -->", re.DOTALL)
PUBLISHED_SECTION = re.compile(r"^#+ [^\n]*published[^\n]*\n(.*?)(?=^#|\Z)", re.DOTALL | re.MULTILINE | re.IGNORECASE)
FIGURE = re.compile(r"(?<![\w.])\d*\.\d+(?![\w.]*[a-zA-Z])(?!\.\d)|(?<![\w.])\d+(?= ?%)")
FILE = """method,dataset,metric,value,spread,source,table,cell
leace,text model=B,accuracy,0.50,0.01,A paper,Table 1,"row 1, B"
leace,text model=A,accuracy,0.40,,A paper,Table 1,"row 1, A"
rlace rank=10,text model=A,accuracy,0.3,,"Another, <2022>",Table 2,x
rlace rank=2,text model=A,accuracy,0.2,,"Another, <2022>",Table 2,y
rlace rank=2,text model=A,v_measure,0.1,,"Another, 2022",figure 1,y
"""


@pytest.fixture
def numbers(tmp_path: Path) -> tuple[Published, ...]:
    (tmp_path / "published.csv").write_text(FILE)
    return published.read(tmp_path / "published.csv")


def table(words: str, numbers: tuple[Published, ...]) -> str:
    text = f"before\n<!-- published: {words} -->\nold\n<!-- /published -->\nafter\n"
    made = with_quotes(text, numbers, name="README.md")
    assert made.startswith(f"before\n<!-- published: {words} -->\n")
    assert made.endswith("\n<!-- /published -->\nafter\n")
    return made.split("-->\n")[1].removesuffix("\n<!-- /published ")


def test_a_table_has_figures_as_printed_in_the_order_of_the_file(numbers: tuple[Published, ...]) -> None:
    assert table("rows=method,method.rank:of_rank columns=dataset.model metrics=accuracy", numbers) == (
        "| method | of rank | B | A |\n"
        "| --- | --- | --- | --- |\n"
        "| `leace` |  | 0.50 ± 0.01 | 0.40 |\n"
        "| `rlace` | 10 | – | 0.3 |\n"
        "| `rlace` | 2 | – | 0.2 |\n\n"
        "Source: A paper, Table 1; Another, &lt;2022>, Table 2."
    )


def test_conditions_choose_and_order(numbers: tuple[Published, ...]) -> None:
    words = "rows=method.rank metrics=v_measure,accuracy method=rlace method.rank=2.0,10 table=Table_2,figure_1"
    assert table(words, numbers).splitlines()[:4] == [
        "| rank | v measure | accuracy ↑ |",
        "| --- | --- | --- |",
        "| 2 | 0.1 | 0.2 |",
        "| 10 | – | 0.3 |",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rows=method", "name rows=... and metrics=..."),
        ("rows=method metrics=acuracy", "no number of published.csv meets the conditions"),
        ("rows=colour metrics=accuracy", "there is no colour: name one of method, dataset,"),
        ("rows=method metrics=accuracy method=leace", "row leace, column accuracy would hold both A paper, Table"),
    ],
)
def test_a_marker_that_cannot_be_met_is_named(words: str, message: str, numbers: tuple[Published, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"README.md, published: {words}: {message}")):
        table(words, numbers)


def test_a_marker_without_an_end_is_named(numbers: tuple[Published, ...]) -> None:
    with pytest.raises(ValueError, match="each <!-- published"):
        with_quotes("<!-- published: rows=method metrics=accuracy -->\n", numbers, name="README.md")


def figures(text: str) -> set[float]:
    return {float(figure) for figure in FIGURE.findall(text)}


def test_figures_are_numbers_with_a_point_and_percentages() -> None:
    text = "0.52 and .5, 88.8 % or 7 %; not arXiv 2201.12091v8, 1 of 2, version 0.1.0, 300 words, alexnet.2"
    assert figures(text) == {0.52, 0.5, 88.8, 7}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_quotes_is_in_its_file(page: Path) -> None:
    """A section that is called Published has no figure, and no table a published column, but from `published.csv`."""
    text = GENERATED.sub("", page.read_text())
    file = page.parent / published.PUBLISHED
    known = {number.value for number in published.read(file)} if file.is_file() else set()
    known |= {round(100 * value, 6) for value in known}
    for section in PUBLISHED_SECTION.findall(text):
        assert figures(section) <= known
    for header in re.findall(r"^(\|.*\|)\n\|[ :|-]+\|\n", text, re.MULTILINE):
        assert not re.search(r"published(?!_)", header, re.IGNORECASE), header


@pytest.mark.parametrize("page", sorted(ROOT.glob("experiments/*/README.md")), ids=lambda path: path.parent.name)
def test_tables_of_figures_are_made_from_files(page: Path) -> None:
    """A table that is typed is rebuilt by nothing: only words may stand in one."""
    text = GENERATED.sub("", page.read_text())
    typed = [row for row in re.findall(r"^\|.*\|$", text, re.MULTILINE) if figures(re.sub(r"`[^`]*`", "", row))]
    assert not typed
