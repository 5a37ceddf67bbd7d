"""Folds that cannot be pooled are named, and stand for nothing."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.report.folded import HAND, frame, only_row, write, write_hand

from efface.report import predictions
from efface.report.__main__ import main
from efface.report.records import collect


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        ({"fingerprint": "g"}, {}, "they read different data files"),
        ({}, {"index": [1, 5, 6, 7, 8]}, "they are no folds (samples tested twice: 1)"),
        ({}, {"cluster": [1, 1, 9, 9, 9]}, "they are no folds (people in two tests: 1)"),
    ],
    ids=["fingerprint", "sample", "person"],
)
def test_folds_that_do_not_fit_together_are_left_out_and_named(
    tmp_path: Path, record: dict[str, Any], changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 0, HAND[0] | {"cluster": [1, 1, 2]})
    write(tmp_path, 1, HAND[1] | changes, **record)
    with pytest.raises(ValueError, match=re.escape(message)):
        collect(tmp_path)
    write(tmp_path, None, HAND[0])
    assert main([str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_a_fold_whose_predictions_are_gone_is_named(tmp_path: Path) -> None:
    write(tmp_path, 0, HAND[0])
    write(tmp_path, 1, None)
    collection = collect(tmp_path)
    assert only_row(collection)["folds"] == 1
    assert only_row(collection)["reason"].startswith("fold 1: no predictions that can be read; folds 2, 3, 4: no run")
    (problem,) = collection.problems
    assert "fold=1/seed=0 is not pooled" in problem
    file = tmp_path / "none" / "fold=1" / "seed=0" / predictions.FILE
    for broken, message in (
        (frame(HAND[1]).drop(columns="p_y"), "has no column p_y"),
        (frame(HAND[1] | {"y_pred": [0, 1, -1, 0, 0]}), "y_pred holds what no run predicts"),
        (frame(HAND[1]).assign(p_y=2.0), "p_y holds what no run predicts"),
        (frame(HAND[1]).assign(a=0.5), "a holds what no run predicts"),
        (frame(HAND[1] | {"y": [1, 1, 1, 0, 2**39]}), "y holds what no run predicts"),
        (frame(HAND[1] | {"cluster": [1, 1, 2, 2, None]}), "cluster holds what no run predicts"),
        (frame(HAND[1]).head(0), "holds no sample"),
    ):
        broken.to_parquet(file)
        assert message in collect(tmp_path).problems[0]
    file.write_text("no table")
    assert "fold=1/seed=0 is not pooled" in collect(tmp_path).problems[0]


def test_no_fold_stands_for_a_pool_without_predictions(tmp_path: Path) -> None:
    write_hand(tmp_path)
    for fold in HAND:
        write(tmp_path, fold, None, method="leace")
    collection = collect(tmp_path)
    assert list(collection.tabled["method"]) == ["none"]
    assert len(collection.problems) == 2


@pytest.mark.parametrize("fold", ["two", -1, 0.5, True, 10**9, {"of": 1}])
def test_a_fold_is_a_number(tmp_path: Path, fold: Any) -> None:
    write_hand(tmp_path)
    write(tmp_path, fold, HAND[0])
    (problem,) = collect(tmp_path).problems
    assert "config.dataset.fold is" in problem


def test_a_method_on_other_samples_than_none_has_no_difference(tmp_path: Path) -> None:
    write(tmp_path, 0, HAND[0])
    write(tmp_path, 1, HAND[1], method="leace")
    write(tmp_path, 0, HAND[0] | {"y": [1, 0, 1]}, method="inlp")
    write(tmp_path, 0, HAND[0], method="rlace", fingerprint="g")  # of other files
    collection = collect(tmp_path)
    assert list(collection.tabled["method"]) == ["leace", "none", "rlace"]
    assert "accuracy_difference" not in collection.tabled
    (problem,) = collection.problems
    assert "other labels of the same samples" in problem


def test_a_head_kept_in_some_folds_is_mixed(tmp_path: Path) -> None:
    for fold, head in enumerate(("kept", "fitted")):
        write(tmp_path, fold, HAND[fold], method="fmd", info={"head": head, "at_edge": head == "kept"})
    row = only_row(collect(tmp_path))
    assert row["head"] == "mixed"
    assert row["at_edge"]
