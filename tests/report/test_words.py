"""Words in a report: where they lie on a plane, and which are nearest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.test_faults import record

from efface.report import plots
from efface.report.nearest import with_neighbours
from efface.report.records import Collection, collect

WORDS = ("=he", "null", "she")


def info(shift: float) -> dict[str, Any]:
    before = [[float(i), -float(i)] for i in range(3)]
    return {
        "plane": {
            "words": list(WORDS),
            "attributes": ["male", "male", "female"],
            "before": before,
            "after": [[x + shift, y] for x, y in before],
        },
        "neighbours": {"before": {"she": ["her", "he"]}, "after": {"she": [f"w{shift:g}", "a<b"]}},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs of none, and of leace at two ranks and seeds."""
    folder = tmp_path / "results"
    record(folder, {"method": {"name": "none"}}, info=info(0))
    for rank in (10, 2):
        for seed in (1, 0):
            nodes = {"method": {"name": "leace", "rank": rank}}
            record(folder, nodes, seed=seed, info={"rank": rank, **info(rank + seed / 10)})
    return folder


def collections(folder: Path, tmp_path: Path, write_csv: Callable[[Path, Path], None]) -> list[Collection]:
    """Of the records, and of the files that are written from them."""
    write_csv(folder, tmp_path)
    return [collect(folder), collect(tmp_path / "csv")]


def test_words_are_those_of_the_lowest_rank_and_seed_and_drawn_alike_from_files(
    folder: Path, tmp_path: Path, write_csv: Callable[[Path, Path], None]
) -> None:
    drawn = []
    for collection in collections(folder, tmp_path, write_csv):
        assert collection.words["word"].tolist() == [*WORDS, *WORDS]
        assert collection.words["after_x"].tolist() == [2.0, 3.0, 4.0, 0.0, 1.0, 2.0]
        (plot,) = plots.words_on_a_plane(collection.runs, collection.words, tmp_path)
        drawn.append([path.read_bytes() for path in plot.paths])
    assert drawn[0] == drawn[1]
    names = {path.name for plot in plots.draw(collect(tmp_path / "csv"), tmp_path) for path in plot.paths}
    assert "words_on_a_plane.png" in names


def test_runs_without_words_have_no_picture(tmp_path: Path) -> None:
    record(tmp_path)
    collection = collect(tmp_path)
    assert plots.words_on_a_plane(collection.runs, collection.words, tmp_path) == []


def test_nearest_words_stand_between_markers(
    folder: Path, tmp_path: Path, write_csv: Callable[[Path, Path], None]
) -> None:
    text = "<!-- neighbours: method=none,leace k=1 -->\nold\n<!-- /neighbours -->\n"
    for collection in collections(folder, tmp_path, write_csv):
        made = with_neighbours(text, collection.runs, collection.neighbours, name="README.md")
        assert made.splitlines()[1:-1] == [
            "| word | before | `none` | `leace` |",
            "| --- | --- | --- | --- |",
            "| she | her | w0 | w2 |",
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- neighbours: k=1 -->\n<!-- /neighbours -->", "neighbours: k=1: name method="),
        ("<!-- neighbours: method=inlp k=1 -->\n<!-- /neighbours -->", "no neighbours of inlp, but of leace, none"),
        ("<!-- neighbours: method=inlp k=1 -->\n", "README.md: each <!-- neighbours"),
    ],
)
def test_a_marker_that_cannot_be_met_is_named(folder: Path, text: str, message: str) -> None:
    collection = collect(folder)
    with pytest.raises(ValueError, match=message):
        with_neighbours(text, collection.runs, collection.neighbours, name="README.md")


def test_a_page_of_runs_without_words_has_no_neighbours(tmp_path: Path) -> None:
    record(tmp_path)
    collection = collect(tmp_path)
    with pytest.raises(ValueError, match="there is no neighbours"):
        with_neighbours(
            "<!-- neighbours: method=none k=1 -->\n<!-- /neighbours -->",
            collection.runs,
            collection.neighbours,
            name="README.md",
        )
