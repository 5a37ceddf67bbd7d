"""What a table says beside its numbers: circumstances, heads, the edge of a grid, intervals of one run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.test_faults import record

from efface.report import experiment, render, table
from efface.report.cells import Number, half_width_within, number
from efface.report.circumstances import flags, mixed, shared
from efface.report.records import collect
from efface.report.signs import AT_EDGE, AT_TEST, MIXED

DONE = {
    "device": "cpu",
    "processor": "AMD EPYC (AVX512)",
    "threads": 1,
    "versions": {"python": "3.11", "torch": "2.14"},
}
MARKER = "<!-- table: rows=method metrics=accuracy,n -->\n<!-- /table -->"


def seeds(folder: Path, nodes: dict[str, Any], runs: list[dict[str, Any]], **fields: Any) -> None:
    """Write one id, under one seed for each of these `run` fields."""
    for seed, run in enumerate(runs):
        record(folder, nodes, seed=seed, run=run, **fields)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"threads": 2}, "numbers of threads: 1 (seed 0); 2 (seed 1)"),
        ({"threads": None}, "numbers of threads: 1 (seed 0); unknown (seed 1)"),
        (
            {"processor": "Intel Xeon (AVX2)"},
            "kinds of processor: AMD EPYC (AVX512) (seed 0); Intel Xeon (AVX2) (seed 1)",
        ),
        ({"device": "a card"}, "devices: a card (seed 1); cpu (seed 0)"),
        ({"versions": {"python": "3.11", "torch": "2.15"}}, "versions of torch: 2.14 (seed 0); 2.15 (seed 1)"),
    ],
)
def test_circumstances_that_differ_within_a_cell_are_signed_and_named(
    tmp_path: Path, change: dict[str, Any], note: str
) -> None:
    """Covers audit B8."""
    seeds(tmp_path, {}, [DONE, {**DONE, **change}])
    seeds(tmp_path, {"method": {"name": "none"}}, [DONE, DONE])
    runs = collect(tmp_path).runs
    made = table.build(runs)
    assert made.rows == ("none", f"leace {MIXED}")
    assert f"digits / leace: {MIXED} {note}" in made.notes
    assert not any("digits / none" in line for line in made.notes)
    assert any(sentence.startswith(f"{MIXED} runs of one cell were made") for sentence in made.caption)
    page = experiment.with_tables(MARKER, runs)
    assert f"| `leace` {MIXED} | 0.500 ± 0.000 | 2 |" in page
    assert f"`leace`, {note}." in page
    assert r"\textdaggerdbl{}" in render.latex(made)


def test_use_of_the_attribute_at_test_is_explained_where_it_is_signed(tmp_path: Path) -> None:
    seeds(tmp_path, {}, [DONE, DONE], info={"uses_attribute_at_test": True})
    seeds(tmp_path, {"method": {"name": "none"}}, [DONE, DONE])
    runs = collect(tmp_path).runs
    page = experiment.with_tables(MARKER, runs)
    assert f"| `leace` {AT_TEST} |" in page
    assert (
        f"\n\n{AT_TEST} uses the protected attribute at test time, and is left out when the best is marked.\n" in page
    )
    assert not any(AT_TEST in note for note in table.build(runs).notes)


def test_circumstances_that_differ_between_cells_are_flagged_and_not_signed(tmp_path: Path) -> None:
    seeds(tmp_path, {}, [DONE, DONE])
    seeds(tmp_path, {"method": {"name": "none"}}, [{**DONE, "threads": 2}] * 2)
    runs = collect(tmp_path).runs
    assert table.build(runs).rows == ("none", "leace")
    assert flags(runs) == ("mixed numbers of threads: 1 (2 runs); 2 (2 runs)",)
    assert shared(runs) == (
        "All runs were made with numbers of threads that differ, on AMD EPYC (AVX512), under python=3.11 torch=2.14."
    )


def test_threads_that_some_runs_did_not_record_are_not_said_to_differ(tmp_path: Path) -> None:
    seeds(tmp_path, {}, [DONE, DONE, {**DONE, "threads": None}])
    assert shared(collect(tmp_path).runs).startswith("All runs were made with 1 thread where it is recorded, on AMD")


def test_circumstances_that_are_shared_are_stated_below_the_table(tmp_path: Path) -> None:
    seeds(tmp_path, {}, [DONE, DONE])
    assert table.build(collect(tmp_path).runs).caption[-1] == (
        "All runs were made with 1 thread, on AMD EPYC (AVX512), under python=3.11 torch=2.14."
    )


def test_circumstances_of_older_records_are_empty_and_flag_nothing(
    tmp_path: Path, write_csv: Callable[[Path, Path], None]
) -> None:
    seeds(tmp_path / "results", {}, [{}, {}])
    write_csv(tmp_path / "results", tmp_path)
    for folder in ("results", "csv"):
        runs = collect(tmp_path / folder).runs
        assert flags(runs) == ()
        assert mixed(runs) == {}
        assert table.build(runs).rows == ("leace",)
        assert shared(runs) == "All runs were made with a number of threads not recorded."
        older = runs.drop(columns=["threads", "processor", "device", "versions", "commit", "head", "at_edge"])
        made = table.build(older)
        assert (flags(older), made.rows) == ((), ("leace",))
        assert [title for _, title in made.columns] == ["accuracy ↑", "n"]
        assert "| `leace` | 0.500 ± 0.000 | 2 |" in experiment.with_tables(MARKER, older)


def test_heads_have_a_column_in_every_kind_of_table(tmp_path: Path, write_csv: Callable[[Path, Path], None]) -> None:
    """Covers audit B5."""
    for method, options, heads in (
        ("none", {}, ["kept", "kept"]),
        ("leace", {"refit_head": False}, ["kept", "kept"]),
        ("leace", {"refit_head": True}, ["fitted", "fitted"]),
        ("fmd", {}, ["fitted", "kept"]),  # under one seed nothing was better than the model as trained
        ("older", {}, [None, None]),
    ):
        for seed, head in enumerate(heads):
            record(tmp_path / "results", {"method": {"name": method, **options}}, seed=seed, info={"head": head})
    write_csv(tmp_path / "results", tmp_path)
    for folder in ("results", "csv"):
        runs = collect(tmp_path / folder).runs
        made = table.build(runs)
        cells = {row: made.cell(row, ("digits", "head")).text for row in made.rows}
        assert cells == {
            "none": "kept",
            "leace refit_head=false": "kept",
            "leace refit_head=true": "fitted",
            "fmd": "fitted (1), kept (1)",
            "older": "",
        }
        assert any(sentence.startswith("Head: kept as the base model had it") for sentence in made.caption)
        rows = experiment.with_tables(MARKER.replace("=method ", "=method,method.refit_head:refitted "), runs)
        assert "| method | refitted | head | accuracy ↑ | n |" in rows
        assert "| `leace` | true | fitted | 0.500 ± 0.000 | 2 |" in rows
        assert "| `older` |  | – | 0.500 ± 0.000 | 2 |" in rows
        named = experiment.with_tables(MARKER.replace("=method ", "=method,head method=leace "), runs)
        assert "| `leace` | kept | 0.500 ± 0.000 | 2 |" in named
        assert "| `leace` | fitted | 0.500 ± 0.000 | 2 |" in named


def test_heads_of_the_base_model_alone_need_no_column(tmp_path: Path) -> None:
    record(tmp_path, {"method": {"name": "none"}}, info={"head": "kept"})
    assert ("digits", "head") not in table.build(collect(tmp_path).runs).columns


def test_a_choice_at_the_edge_of_its_grid_is_signed_with_its_seeds(
    tmp_path: Path, write_csv: Callable[[Path, Path], None]
) -> None:
    """Covers audit B2."""
    for method, edges in (("dfr", [True, False]), ("fmd", [True, True]), ("leace", [None, None])):
        for seed, at_edge in enumerate(edges):
            record(tmp_path / "results", {"method": {"name": method}}, seed=seed, info={"at_edge": at_edge})
    write_csv(tmp_path / "results", tmp_path)
    for folder in ("results", "csv"):
        runs = collect(tmp_path / folder).runs
        made = table.build(runs)
        assert made.rows == (f"dfr {AT_EDGE}", f"fmd {AT_EDGE}", "leace")
        assert f"digits / dfr: {AT_EDGE} chosen at the edge under seed 0" in made.notes
        assert f"digits / fmd: {AT_EDGE} chosen at the edge under every seed" in made.notes
        assert any("a wider grid may hold something better" in sentence for sentence in made.caption)
        page = experiment.with_tables(MARKER, runs)
        assert f"| `dfr` {AT_EDGE} | 0.500 ± 0.000 | 2 |" in page
        assert (
            "something better: `dfr`, chosen at the edge under seed 0; `fmd`, chosen at the edge under every seed."
            in page
        )


def test_the_interval_of_one_run_stands_beside_the_spread_over_seeds(
    tmp_path: Path, write_csv: Callable[[Path, Path], None]
) -> None:
    """Covers audit B7."""
    for seed, (accuracy, bounds) in enumerate([(0.846, [0.84, 0.852]), (0.846, [0.838, 0.852])]):
        metrics, ends = {"accuracy": accuracy, "theil_index": 0.2}, {"accuracy": bounds, "theil_index": None}
        record(tmp_path / "results", seed=seed, metrics=metrics, metrics_ci=ends)
    write_csv(tmp_path / "results", tmp_path)
    for folder in ("results", "csv"):
        runs = collect(tmp_path / folder).runs
        assert list(runs["accuracy_low"]) == [0.84, 0.838]
        assert list(runs["accuracy_high"]) == [0.852, 0.852]
        made = table.build(runs)
        assert made.cell("leace", ("digits", "accuracy ↑")).text == "0.846 ± 0.000 [±0.007]"  # (.006 + .007) / 2, up
        assert made.cell("leace", ("digits", "Theil index ↓")).text == "0.200 ± 0.000"
        assert any("seeds share the test samples" in sentence for sentence in made.caption)
        assert "seed 1: 0.846 [0.838, 0.852]  " in render.to_html(made)
        page = experiment.with_tables(MARKER, runs)
        assert "| `leace` | 0.846 ± 0.000 [±0.007] | 2 |" in page
        assert "half-width of one run's 95 % bootstrap interval" in page


def test_the_half_width_within_is_the_mean_of_the_runs_that_have_one() -> None:
    runs = [Number(0, 0.5, "a", 0.4, 0.6), Number(1, 0.5, "b", 0.3, 0.7), Number(2, 0.5, "c")]
    assert half_width_within(runs) == pytest.approx(0.15)
    assert half_width_within(runs[2:]) is None
    assert number(runs[:1], 3, "std") == "0.500 [±0.100]"
    assert number([Number(0, 2e-7, "a", 1e-7, 3e-7)], 3, "std") == "2e−7 [±1e−7]"
