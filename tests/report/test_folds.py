"""Runs that differ in the fold alone are one row, from their predictions to the page."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.report.folded import HAND, METRICS, frame, only_row, write, write_hand

from efface.data import people
from efface.evaluation import confusion, scores
from efface.record import RECORD
from efface.report import contrasts, experiment, folds, predictions, table
from efface.report.__main__ import main
from efface.report.records import collect


def test_as_many_folds_as_the_data_have() -> None:
    assert folds.FOLDS == people.FOLDS


def test_two_folds_are_pooled_by_hand(tmp_path: Path) -> None:
    write_hand(tmp_path)
    collection = collect(tmp_path)
    assert len(collection.runs) == 2
    row = only_row(collection)
    assert row["dataset"] == "faces"
    assert row["accuracy"] == 6 / 8  # not the mean of 2/3 and 4/5, nor that of the records
    assert row["unbiased_accuracy"] == 3 / 4
    assert row["worst_group_accuracy"] == 1 / 2
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]


def test_what_predictions_do_not_tell_is_a_mean_weighted_by_size(tmp_path: Path) -> None:
    for fold, (bits, low) in enumerate([(0.1, 0.0), (0.5, 0.3)]):
        interval = {"probe_information": [low, 2 * bits - low]}
        write(tmp_path, fold, HAND[fold], metrics={**METRICS, "probe_information": bits}, metrics_ci=interval)
    row = only_row(collect(tmp_path))
    assert row["probe_information"] == pytest.approx((3 * 0.1 + 5 * 0.5) / 8)
    reach = math.hypot(3 / 8 * 0.1, 5 / 8 * 0.2)
    assert row["probe_information_high"] == pytest.approx(row["probe_information"] + reach)
    assert row["probe_information_low"] == pytest.approx(row["probe_information"] - reach)
    made = table.build(collect(tmp_path).tabled)
    assert any("What predictions do not tell (probe info., bits) is the mean over folds" in s for s in made.caption)


def test_a_metric_that_one_fold_lacks_is_null_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, 0, HAND[0])
    weak = {"reasons": {"probe_information": "the probe is underpowered"}}
    write(tmp_path, 1, HAND[1], metrics={**METRICS, "probe_information": None}, info=weak)
    collection = collect(tmp_path)
    assert pd.isna(only_row(collection)["probe_information"])
    assert any("fold 1: the probe is underpowered" in note for note in table.build(collection.tabled).notes)


def test_no_interval_of_a_fold_stands_for_that_of_the_pool(tmp_path: Path) -> None:
    distance = "score_energy_distance_mean"
    write(tmp_path, 0, HAND[0], metrics={**METRICS, distance: 0.1}, metrics_ci={distance: [0.0, 0.2]})
    row = only_row(collect(tmp_path))
    assert pd.notna(row[distance])
    assert f"{distance}_low" not in row


def test_one_person_has_no_interval() -> None:
    alone = predictions.measure(frame({**HAND[1], "cluster": 7}))["accuracy"]
    assert alone.value == 4 / 5
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_metrics_are_those_of_evaluation() -> None:
    draw = np.random.default_rng(0)
    columns = {name: draw.integers(2, size=200) for name in ("y", "a", "y_pred")}
    p_y, p_y_cf = draw.random((2, 200))
    measured = predictions.measure(frame({"index": np.arange(200), **columns, "p_y": p_y, "p_y_cf": p_y_cf}))
    y, a, y_pred = (torch.from_numpy(column) for column in columns.values())
    share = torch.full((2, 2), 0.25, dtype=torch.float64)
    theirs = confusion.measure(y_pred, y, a, share, torch.eye(2).bool()) | scores.measure(
        torch.from_numpy(p_y), y, a, 2, 2
    )
    assert set(measured) == set(predictions.METRICS)
    for name, each in measured.items():
        wanted = np.abs(p_y - p_y_cf).mean() if name == "counterfactual_bias" else theirs.metrics[name]
        assert each.value == pytest.approx(wanted, rel=1e-12), name
        assert math.isnan(each.low) == (name == "score_energy_distance_mean"), name
        assert math.isnan(each.low) or each.low < each.value < each.high, name


def test_an_interval_is_wider_where_people_are_drawn_and_each_is_judged_alike() -> None:
    person = np.repeat(np.arange(50), 8)
    right = np.random.default_rng(0).random(50)[person] < 0.7  # all photographs of a person, or none
    columns = {"index": np.arange(400), "y": np.ones(400, int), "a": np.arange(400) % 2, "y_pred": right.astype(int)}
    alone = predictions.measure(frame(columns))["accuracy"]
    together = predictions.measure(frame({**columns, "cluster": person}))["accuracy"]
    assert alone.value == together.value
    # Eight equal photographs are worth one: √8 = 2.8 times.
    assert 2.3 < (together.high - together.low) / (alone.high - alone.low) < 3.4


def test_pools_draw_whole_people_from_files_to_the_row(tmp_path: Path) -> None:
    write_two(tmp_path / "people", with_people=True)
    write_two(tmp_path / "samples", with_people=False)
    people, samples = (only_row(collect(tmp_path / name)) for name in ("people", "samples"))
    assert people["accuracy"] == samples["accuracy"]
    assert people["n_people"] == 50
    assert pd.isna(samples["n_people"])
    ratio = (people["accuracy_high"] - people["accuracy_low"]) / (samples["accuracy_high"] - samples["accuracy_low"])
    assert 2.3 < ratio < 3.4


def write_two(folder: Path, *, with_people: bool) -> None:
    """Write two folds of 25 people each, of whom all eight photographs are right, or none."""
    right = np.random.default_rng(0).random(50) < 0.7
    for fold in range(2):
        person = np.repeat(np.arange(25) + 25 * fold, 8)
        columns = {"index": np.arange(200) + 200 * fold, "y": np.ones(200, int), "a": np.arange(200) % 2}
        predicted = {**columns, "y_pred": right[person].astype(int)}
        write(folder, fold, {**predicted, "cluster": person} if with_people else predicted)


def test_a_difference_is_paired_so_that_what_both_get_wrong_is_no_part_of_its_interval() -> None:
    draw = np.random.default_rng(0)
    n = 1000
    y, base = np.ones(n, int), (draw.random(n) < 0.7).astype(int)
    better = np.where(np.arange(n) < 20, 1, base)
    columns = {"index": np.arange(n), "y": y, "a": np.arange(n) % 2}
    one, other = (frame({**columns, "y_pred": predicted}) for predicted in (better, base))
    made = predictions.difference(one.sample(frac=1, random_state=0), other)["accuracy"]
    gain = (better - base).sum() / n
    assert made.value == pytest.approx(gain)
    assert 0 < made.low < gain < made.high < 3 * gain
    alone = predictions.measure(one)["accuracy"]
    assert made.high - made.low < (alone.high - alone.low) / 4
    same = predictions.difference(other, other)["accuracy"]
    assert same == (0, 0, 0)
    with pytest.raises(ValueError, match="other labels of the same samples"):
        predictions.difference(one, other.assign(a=0))
    assert predictions.difference(one, other.assign(index=n + other["index"])) == {}


def test_a_method_stands_beside_none_on_the_samples_of_both(tmp_path: Path) -> None:
    write_hand(tmp_path)
    write(tmp_path, 1, HAND[1] | {"y_pred": HAND[1]["y"]}, method="leace")
    collection = collect(tmp_path)
    by_method = collection.tabled.set_index("method")
    assert by_method.loc["leace", "accuracy_difference"] == pytest.approx(1 - 4 / 5)  # of fold 1 alone
    assert pd.isna(by_method.loc["none", "accuracy_difference"])
    made = contrasts.build(collection.tabled)
    assert made is not None
    assert made.rows == ("leace",)
    assert made.cell("leace", ("faces", "Δ accuracy ↑")).text.startswith("+0.200 [+0.000, +0.")
    narrow = contrasts.build(collection.tabled, metrics=["unbiased_accuracy"])
    assert narrow is not None
    assert narrow.columns == (("faces", "Δ unbiased acc. ↑"),)
    assert contrasts.build(collect(tmp_path / "none").tabled) is None


def test_a_missing_fold_is_named_and_its_row_is_not_compared(tmp_path: Path) -> None:
    write_hand(tmp_path)
    for fold in (2, 3, 4):
        write(tmp_path, fold, HAND[0] | {"index": [10 * fold, 10 * fold + 1, 10 * fold + 2]})
    write_hand(tmp_path, method="leace")
    write(tmp_path, 2, None, method="leace", status="failed", reason="OSError: full")
    write(tmp_path, 3, None, method="leace", status="not_applicable", reason="too few", metrics={})
    made = table.build(collect(tmp_path).tabled)
    assert made.cell("none", ("faces", "n")).text == "1 × 5 folds"
    assert made.cell("leace", ("faces", "n")).text == "1 × 2 of 5 folds"
    (note,) = [note for note in made.notes if "leace" in note]
    why = "fold 2: failed, OSError: full; fold 3: not applicable, too few; fold 4: no run"
    assert note == f"faces / leace lacks folds: seed 0, {why}"
    assert {row for (row, _), cell in made.cells.items() if cell.mark == "best"} <= {"none"}
    assert any("A row that lacks a fold" in sentence for sentence in made.caption)
    text = experiment.with_tables(
        "<!-- table: rows=method metrics=accuracy,n -->\n<!-- /table -->", collect(tmp_path).tabled
    )
    assert f"Of fewer samples than the others, for want of folds: `leace`, seed 0, {why}.\n" in text


def test_folds_are_pooled_within_a_seed_and_seeds_are_repetitions(tmp_path: Path) -> None:
    write_hand(tmp_path, seed=0)
    for fold, predicted in HAND.items():
        write(tmp_path, fold, predicted | {"y_pred": predicted["y"]}, seed=1)
    collection = collect(tmp_path)
    assert list(collection.tabled["accuracy"]) == [0.75, 1.0]
    assert len(set(collection.tabled["id"])) == 1
    made = table.build(collection.tabled)
    assert made.cell("none", ("faces", "accuracy ↑")).text.startswith("0.875 ± 0.177")
    assert made.cell("none", ("faces", "n")).text == "2 × 2 of 5 folds"


def test_runs_with_folds_and_without_stand_in_one_table(tmp_path: Path) -> None:
    write_hand(tmp_path)
    write(tmp_path, None, HAND[0])
    made = table.build(collect(tmp_path).tabled)
    texts = {made.cell("none", column).text for column in made.columns if column[1] == "n"}
    assert texts == {"1", "1 × 2 of 5 folds"}


@pytest.mark.usefixtures("no_plots")
def test_a_folder_with_pooled_csv_gives_the_same_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hand(tmp_path)
    write_hand(tmp_path, method="leace", info={"head": "kept"})
    first, second = tmp_path / "report", tmp_path / "second"
    assert main([str(tmp_path)]) == 0
    assert "Difference to the base model" in capsys.readouterr().out
    assert len(pd.read_csv(first / "pooled.csv")) == 2
    assert main([str(first), "--out", str(second)]) == 0
    for name in ("table.md", "table.tex", "table.csv", "runs.csv", "pooled.csv"):
        assert (first / name).read_text() == (second / name).read_text(), name
    page = (first / "index.html").read_text()
    assert "Δ accuracy" in page
    assert re.findall(r'<table id="(.*?)"', page) == ["T_efface", "T_efface1"]
    (first / "pooled.csv").unlink()
    assert main([str(first)]) == 1
    assert re.search(
        r"runs\.csv has folds of faces .*, seed 0, of which .* no row in pooled\.csv", capsys.readouterr().err
    )


@pytest.mark.usefixtures("no_plots")
def test_pools_of_other_folds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_hand(one)
    write_hand(other, method="leace")
    write(other, None, HAND[0])
    for folder in (one, other):
        assert main([str(folder)]) == 0
    (other / "report" / "pooled.csv").replace(one / "report" / "pooled.csv")
    assert main([str(one / "report")]) == 1
    assert "there is no row in pooled.csv" in capsys.readouterr().err
    runs = pd.read_csv(other / "report" / "runs.csv")
    runs[runs["method"] == "none"].to_csv(one / "report" / "runs.csv", index=False)
    assert main([str(one / "report")]) == 1
    assert re.search(
        r"pooled\.csv has folds of .* leace .*, of which there is no row in runs\.csv", capsys.readouterr().err
    )


def test_a_page_of_an_experiment_can_ask_for_differences(tmp_path: Path) -> None:
    write_hand(tmp_path)
    write(tmp_path, 1, HAND[1] | {"y_pred": HAND[1]["y"]}, method="leace")
    words = "rows=method metrics=accuracy,accuracy_difference,n"
    text = experiment.with_tables(f"<!-- table: {words} -->\n<!-- /table -->", collect(tmp_path).tabled)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["method", "accuracy ↑", "accuracy, minus none", "n"]
    assert [line[0] for line in lines[2:]] == ["`none`", "`leace`"]
    assert lines[2][2] == "–"
    assert lines[3][2].startswith("0.200 [±")
    assert "\n\nMinus none: on the samples that both predict. [± …] is then of the difference," in text


def test_a_page_of_an_experiment_says_how_folds_are_pooled(tmp_path: Path) -> None:
    write_hand(tmp_path)
    for fold in (2, 3, 4):
        write(tmp_path, fold, HAND[0] | {"index": [10 * fold, 10 * fold + 1, 10 * fold + 2]})
    runs = collect(tmp_path).tabled
    text = experiment.with_tables("<!-- table: rows=method metrics=accuracy,n -->\n<!-- /table -->", runs)
    assert "\n\nFolds are pooled: " in text
    assert "every sample is predicted once (17 in all)," in text
    assert "is the mean over folds" not in text
    words = "rows=method metrics=accuracy,probe_information"
    text = experiment.with_tables(f"<!-- table: {words} -->\n<!-- /table -->", runs)
    assert "What predictions do not tell (probe info., bits) is the mean over folds" in text
    assert "for want of folds" not in text
    words = "rows=method,dataset.fold metrics=accuracy"
    single = experiment.with_tables(f"<!-- table: {words} -->\n<!-- /table -->", collect(tmp_path).runs)
    assert "Folds are pooled" not in single


@pytest.mark.parametrize("name", ["statistical_parity_difference", "accuracy_difference", "accuracy_difference_low"])
def test_a_column_of_words_under_a_difference_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, None, HAND[0])
    folder = tmp_path / "copy"
    folder.mkdir()
    collect(tmp_path).runs[["dataset", "model", "training", "method", "id", "seed", "status", "reason"]].assign(
        **{name: "much"}
    ).to_csv(folder / "runs.csv", index=False)
    with pytest.raises(ValueError, match=f"{name}.* is no finite number"):
        collect(folder)


def test_a_metric_that_ends_like_a_difference_is_none(tmp_path: Path) -> None:
    write_hand(tmp_path)
    words = "rows=method metrics=statistical_parity_difference"
    runs = collect(tmp_path).tabled.assign(statistical_parity_difference=0.1)
    assert "Minus none" not in experiment.with_tables(f"<!-- table: {words} -->\n<!-- /table -->", runs)


def test_differences_mark_what_uses_the_attribute_at_test(tmp_path: Path) -> None:
    write_hand(tmp_path)
    write_hand(tmp_path, method="oracle", info={"uses_attribute_at_test": True})
    write_hand(tmp_path, method="leace")
    made = contrasts.build(collect(tmp_path).tabled)
    assert made is not None
    assert made.rows == ("leace", "oracle †")
    assert made.cell("oracle †", ("faces", "Δ accuracy ↑")).text
    assert made.caption[-1] == "† uses the protected attribute at test time."
    (tmp_path / "oracle" / "fold=0" / "seed=0" / RECORD).unlink()
    (tmp_path / "oracle" / "fold=1" / "seed=0" / RECORD).unlink()
    without = contrasts.build(collect(tmp_path).tabled)
    assert without is not None
    assert not any("†" in sentence for sentence in without.caption)
