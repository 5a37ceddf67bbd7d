"""One cell is one id, whatever differs between two configurations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efface.identity import run_id, run_id_v1
from efface.record import RECORD, Record
from efface.report import table
from efface.report.labels import LEVELS, differing, label, options, parse, same, show
from efface.report.records import collect


def config(**nodes: dict[str, Any]) -> dict[str, Any]:
    """A configuration, with some options of some nodes."""
    names = {"dataset": "digits", "model": "mlp", "training": "erm", "method": "leace", "evaluation": "default"}
    return {node: {"name": name, **nodes.get(node, {})} for node, name in names.items()}


def write(folder: Path, config: dict[str, Any], *, accuracy: float, version: int = 2, seeds: int = 2) -> str:
    """Write the records of one id. Returns the id."""
    identity = (run_id_v1 if version == 1 else run_id)(config)
    for seed in range(seeds):
        record = Record(
            schema_version=version,
            id=identity,
            config=config,
            seed=seed,
            fingerprint="f",
            status="done",
            metrics={"accuracy": accuracy},
        )
        path = folder / identity / f"seed={seed}" / RECORD
        path.parent.mkdir(parents=True)
        path.write_text(record.to_json())
    return identity


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "floats that agree in six digits": ({"training": {"lr": 0.00012345678}}, {"training": {"lr": 0.00012345699}}),
    "floats that differ in the last digit": ({"method": {"l2": 0.3}}, {"method": {"l2": 0.1 + 0.2}}),
    "a number and a string": ({"method": {"rank": 3}}, {"method": {"rank": "3"}}),
    "null and nothing": ({"method": {"rank": None}}, {"method": {}}),
    "strings that differ in blanks": ({"dataset": {"folder": "a b"}}, {"dataset": {"folder": "ab"}}),
    "the evaluation": ({"evaluation": {"bootstrap": 100}}, {"evaluation": {"bootstrap": 200}}),
    "one key in method and evaluation": (
        {"method": {"l2": 1}, "evaluation": {"l2": 2}},
        {"method": {"l2": 1}, "evaluation": {"l2": 3}},
    ),
    "lists": ({"method": {"alpha": [0.5, 1]}}, {"method": {"alpha": [0.5, 2]}}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_ids_never_share_a_cell(tmp_path: Path, name: str) -> None:
    for nodes, accuracy in zip(PAIRS[name], (0.5, 0.9), strict=True):
        write(tmp_path, config(**nodes), accuracy=accuracy)
    check_cells(collect(tmp_path).runs)


def check_cells(runs: pd.DataFrame) -> None:
    """Two ids of two seeds each, one of 0.5 and one of 0.9, have two cells."""
    assert runs.groupby(list(LEVELS))["id"].nunique().max() == 1
    made = table.build(runs)
    accuracies = [cell.text for (_, column), cell in made.cells.items() if column[1] == "accuracy ↑"]
    assert sorted(accuracies) == ["0.500 ± 0.000", "0.900 ± 0.000"]
    assert {cell.text for (_, column), cell in made.cells.items() if column[1] == "n"} == {"2"}


def test_targets_of_version_1_are_told_apart_by_the_id(tmp_path: Path) -> None:
    ids = [
        write(tmp_path, config(method={"_target_": f"a.{name}"}), accuracy=accuracy, version=1)
        for name, accuracy in (("Leace", 0.5), ("Copied", 0.9))
    ]
    runs = collect(tmp_path).runs
    check_cells(runs)
    assert set(runs["method"]) == {f"leace id={identity}" for identity in ids}


def test_versions_1_and_2_are_read_side_by_side_and_told_apart(tmp_path: Path) -> None:
    write(tmp_path, config(method={"_target_": "a.Leace", "rank": 1}), accuracy=0.5, version=1)
    write(tmp_path, config(method={"rank": 1}), accuracy=0.9)
    collection = collect(tmp_path)
    assert collection.problems == ()
    check_cells(collection.runs)
    assert any("mixed schema versions: 1 (2 runs); 2 (2 runs)" in note for note in table.build(collection.runs).notes)


@pytest.mark.parametrize("version", [1, 2])
def test_an_edited_configuration_is_noticed_in_either_version(tmp_path: Path, version: int) -> None:
    identity = write(tmp_path, config(), accuracy=0.5, version=version, seeds=1)
    write(tmp_path, config(method={"rank": 2}), accuracy=0.5, version=version, seeds=1)
    path = tmp_path / identity / "seed=0" / RECORD
    path.write_text(path.read_text().replace('"mlp"', '"resnet"'))
    collection = collect(tmp_path)
    assert len(collection.runs) == 1
    assert "hashes to" in collection.problems[0]


def test_equal_options_have_equal_labels() -> None:
    first = config(method={"rank": 1, "l2": 0.5}, dataset={"ratio": 1})
    rows = [first, config(method={"rank": 1.0, "l2": 0.5}, dataset={"ratio": 1.0})]
    assert run_id(rows[0]) == run_id(rows[1])
    runs = label(frame(rows))
    assert list(runs["method"]) == ["leace", "leace"]
    assert list(runs["dataset"]) == ["digits", "digits"]


def frame(configs: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {node: each[node]["name"] for node in each}
        | {f"{node}_options": options(each[node]) for node in each}
        | {"id": run_id(each)}
        for each in configs
    ]
    return pd.DataFrame(rows)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.sampled_from(["a", "b c", "1", "true"]),
    st.lists(st.integers(0, 2), max_size=2),
)
nodes = st.fixed_dictionaries({}, optional={"p": values, "q": values, "_target_": st.sampled_from(["x", "y"])})


@given(
    st.lists(st.fixed_dictionaries({"dataset": nodes, "method": nodes, "evaluation": nodes}), max_size=6, min_size=1)
)
def test_one_label_is_one_id_and_one_id_one_label(drawn: list[dict[str, dict[str, Any]]]) -> None:
    runs = label(frame([config(**each) for each in drawn]))
    names = runs[list(LEVELS)].agg(" | ".join, axis=1)
    assert names.groupby(runs["id"]).nunique().max() == 1
    assert runs["id"].groupby(names).nunique().max() == 1


def test_shown_values_are_full_and_without_blanks() -> None:
    shown = {0.1 + 0.2: "0.30000000000000004", 1.0: "1", 1e-05: "1e-05", 3: "3"}
    assert {value: show(value) for value in shown} == shown
    assert [show(value) for value in (True, None, [0.5, "a b"])] == ["true", "null", "[0.5,ab]"]
    assert parse("rank=1 name=a=b") == {"rank": "1", "name": "a=b"}


@pytest.mark.parametrize(("one", "other", "equal"), [("0.950", "0.95", True), ("a", "a", True), ("1", "a", False)])
def test_same_compares_numbers_as_numbers(one: str, other: str, equal: bool) -> None:
    assert same(one, other) is equal
    assert not same(None, other)


def test_differing_takes_an_absent_key_for_a_value() -> None:
    assert differing([{"a": 1, "b": None}, {"a": 1.0}]) == {"b"}
    assert differing([{"a": True}, {"a": 1}]) == {"a"}
    assert differing([{"a": 1}]) == set()


def test_the_labels_of_runs_csv_are_those_of_the_records(
    tmp_path: Path, write_csv: Callable[[Path, Path], None]
) -> None:
    for name in ("floats that differ in the last digit", "lists"):
        for nodes in PAIRS[name]:
            write(tmp_path / "results", config(**nodes), accuracy=0.5)
    write_csv(tmp_path / "results", tmp_path)
    runs, again = collect(tmp_path / "results").runs, collect(tmp_path / "csv").runs
    pd.testing.assert_frame_equal(again[[*LEVELS, "id", "seed"]], runs[[*LEVELS, "id", "seed"]], check_dtype=False)
    assert list(again["method_options"]) == list(runs["method_options"])
