"""The benchmarks' page is rendered from their results."""

from pathlib import Path

import pytest
from benchmarks import pages
from benchmarks.__main__ import NAMES
from benchmarks.scale import BY_LABEL, Case, Size, formula_value, with_table
from benchmarks.timing import Row, Section


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert pages.page(pages.load(), NAMES) == pages.PAGE.read_text()


def test_scale_page_has_the_table_of_the_committed_results() -> None:
    rows = pages.load()["scale"].rows
    text = pages.SCALE.read_text()
    assert with_table(text, rows) == text
    assert {row.what for row in rows} == set(BY_LABEL)


def test_memory_stays_below_its_formula() -> None:
    for row in pages.load()["scale"].rows:
        case, size = BY_LABEL[row.what]
        assert row.peak_bytes is not None
        assert row.peak_bytes <= 1.1 * case.bytes(size) + 5e7, row.what  # and what the allocator keeps


def test_formulas_are_sums_of_products_of_powers() -> None:
    size = Size(n=10, d=3, k=2)
    assert formula_value("2 n d² + d^0.5 k + 1e3", size) == pytest.approx(180 + 2 * 3**0.5 + 1000)
    with pytest.raises(ValueError, match="could not convert"):
        formula_value("n * d", size)


def test_end_is_where_a_limit_is_reached() -> None:
    case = Case(
        name="x",
        prepare=lambda size: lambda: None,
        sizes=(Size(10, 10, 2),),
        time="n d",
        memory="8 n",
        streams=True,
        reference=Size(10, 10, 2),
        along="n",
    )
    assert case.end(1e-9) == (pytest.approx(8e9, rel=0.02), "memory")
    assert case.end(1.0) == (pytest.approx(864_000, rel=0.02), "time")


def test_stored_results_are_read_back_and_replace_those_of_their_name_only(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = Section(rows=(Row("a fit", 0.5, 2.0, "the other", "a | b"),), made="here")
    second = Section(rows=(Row("a sweep", 3.0, None, "limit: 5 s"),), made="there")
    pages.store("b", first, path)
    pages.store("a", second, path)
    assert pages.load(path) == {"a": second, "b": first}
    pages.store("a", first, path)
    assert pages.load(path) == {"a": first, "b": first}


def test_ratios_are_theirs_over_ours_unless_recorded() -> None:
    rows = (Row("x", 0.5, 2.0, "o"), Row("y", 1.0, None, "o"), Row("z", 0.0871, 203.0, "o", recorded_ratio=2335.8))
    compared = pages.ratios({"all": Section(rows=rows, made="here")})
    assert list(compared["times faster"]) == [4.0, 2335.8]
    assert pages.table(rows).count("–") == 2
