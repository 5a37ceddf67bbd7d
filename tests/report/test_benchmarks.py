"""The benchmarks' page is rendered from their results."""

from pathlib import Path

from benchmarks import pages
from benchmarks.__main__ import NAMES
from benchmarks.timing import Row, Section


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert pages.page(pages.load(), NAMES) == pages.PAGE.read_text()


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
