"""What verification notices: every test changes one thing in a run or an export, and looks for its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conftest import executed
from tests.passport.conftest import edit, forge_eraser, run_of, under_right_digests

from efface.debiased import MODEL_FILE
from efface.passport import passport_of, write
from efface.passport.schema import SCHEMA_VERSION
from efface.runs import grid


@pytest.mark.parametrize("method", ["none", "leace", "fmd_published", "certified"])
def test_untouched_run_differs_in_nothing(finished: Path, method: str, verified: Any) -> None:
    assert verified(run_of(finished, method)) == (0, "")


def test_untouched_run_with_a_passport_differs_in_nothing(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    assert verified(run_dir) == (0, "")


def test_one_changed_byte_of_a_weight_is_noticed(results: Path, verified: Any) -> None:
    path = run_of(results) / MODEL_FILE
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    status, said = verified(path.parent)
    assert status == 1
    assert f"{MODEL_FILE} has changed" in said
    assert "its checksum is wrong" in said


@pytest.mark.parametrize("key", ["accuracy", "unbiased_accuracy", "worst_group_accuracy", "counterfactual_bias"])
def test_edited_metric_is_noticed_without_a_passport(results: Path, key: str, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["metrics"].update({key: r["metrics"][key] + 0.01}))
    status, said = verified(run_dir)
    assert status == 1
    assert f"DIFFERS      metrics, computed again from the predictions: {key} is" in said


def test_edited_accuracy_of_a_group_is_noticed(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["metrics"]["group_accuracy"].update({"y=0,a=1": 0.999}))
    assert "group_accuracy, y=0,a=1 is 0.999, but must be" in verified(run_dir)[1]


def test_edited_interval_is_noticed(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["metrics_ci"].update({"accuracy": [0.9, 0.95]}))
    status, said = verified(run_dir)
    assert status == 1
    assert "intervals, computed again from the predictions: accuracy is [0.9, 0.95]" in said


def test_edited_probe_is_noticed_once_a_passport_has_been_written(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    edit(run_dir, lambda r: r["metrics"].update({"probe_information": 0.0}))
    status, said = verified(run_dir)
    assert status == 1
    assert "record.json has changed" in said


def test_edited_probe_is_noticed_on_the_data(results: Path, cache: Path, tmp_path: Path, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["metrics"].update({"probe_information": -0.5}))
    assert verified(run_dir)[0] == 0
    status, said = verified(run_dir, "--data", tmp_path, "--cache", cache)
    assert status == 1
    assert "metrics, measured again on the data: probe_information is -0.5" in said


def test_edited_configuration_is_noticed(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["config"]["dataset"].update({"bias_ratio": 0.5}))
    assert "the record's id" in verified(run_dir)[1]


def test_edited_predictions_are_noticed_under_a_right_digest(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    table = pd.read_parquet(run_dir / "predictions.parquet")
    table.loc[table.index[:50], "y_pred"] = table["y"].iloc[:50]
    table.to_parquet(run_dir / "predictions.parquet", index=False)
    under_right_digests(run_dir)
    status, said = verified(run_dir)
    assert status == 1
    assert "accuracy is" in said


@pytest.mark.parametrize("method", ["none", "leace", "fmd_published"])
def test_untouched_run_is_measured_again_as_it_was(
    finished: Path, method: str, cache: Path, tmp_path: Path, verified: Any
) -> None:
    options = ("--data", tmp_path, "--cache", cache, "--tolerance", "1e-5")
    assert verified(run_of(finished, method), *options) == (0, "")


def test_forged_eraser_under_right_digests_is_noticed_on_the_data(
    results: Path, cache: Path, tmp_path: Path, verified: Any
) -> None:
    run_dir = run_of(results)
    forge_eraser(run_dir)
    under_right_digests(run_dir)
    assert verified(run_dir)[0] == 0  # nothing there tells
    status, said = verified(run_dir, "--data", tmp_path, "--cache", cache)
    assert status == 1
    assert "predictions, made again on the data: probabilities of the label differ" in said
    assert "probe_information is" in said


@pytest.fixture
def feature_run(parts_of: Callable[..., grid.GridRun], tmp_path: Path) -> tuple[Path, Path]:
    """A run on a file of features, and that file."""
    g = np.random.default_rng(0)
    a, y = g.integers(0, 2, 1200), g.integers(0, 2, 1200)
    x = g.normal(size=(1200, 5)) + np.stack([a, y, a, y, a], 1)
    file = tmp_path / "my.npz"
    np.savez(file, x=x, y=y, a=a)
    cheap = ["evaluation.mlp_probe=false", "evaluation.bootstrap=0", "training.epochs=2"]
    parts = parts_of("dataset=features", f"path={file}", "method=leace", *cheap)
    return executed(parts, tmp_path / "features").directory, file


def test_another_data_file_is_noticed(
    feature_run: tuple[Path, Path], cache: Path, tmp_path: Path, verified: Any
) -> None:
    run_dir, file = feature_run
    moved = file.rename(tmp_path / "moved.npz")
    assert verified(run_dir, "--data", moved, "--cache", cache) == (0, "")
    arrays = dict(np.load(moved))
    arrays["x"][3, 1] += 1e-3
    np.savez(tmp_path / "other.npz", **arrays)
    status, said = verified(run_dir, "--data", tmp_path / "other.npz", "--cache", cache)
    assert status == 1
    assert "data, with the fingerprint of the record: these have" in said
    status, said = verified(run_dir, "--data", tmp_path / "none.npz", "--cache", cache)
    assert status == 2
    assert "none.npz" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["guarantee"].update(statement="All is well."), "guarantee says something else than the record"),
        (lambda p: p.update(not_guaranteed=[]), "not_guaranteed says something else"),
        (lambda p: p["figures"][0].update(value=0.99), "figures says something else"),
        (lambda p: p["origin"].update(commit="f" * 12), "origin says something else"),
        (lambda p: p["files"].update({"../../secret": "0" * 64}), "../../secret lies outside of the folder"),
        (lambda p: p["files"].update({"weights.bin": "0" * 64}), "weights.bin is gone"),
    ],
    ids=["guarantee", "limits", "figure", "commit", "outside", "missing"],
)
def test_edited_passport_is_noticed(results: Path, change: Any, message: str, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    edit(run_dir, change, "passport.json")
    status, said = verified(run_dir)
    assert status == 1
    assert message in said


def test_edited_page_is_noticed(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    page = run_dir / "passport.html"
    page.write_text(page.read_text().replace("not guaranteed", "guaranteed"))
    (run_dir / "passport.md").unlink()
    status, said = verified(run_dir)
    assert status == 1
    assert "passport.html is another page than that of passport.json" in said
    assert "passport.md is gone" in said


def test_passport_of_a_newer_schema_is_named(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    later = SCHEMA_VERSION + 1
    edit(run_dir, lambda p: p.update(schema_version=later), "passport.json")
    status, said = verified(run_dir)
    assert status == 2
    assert f"schema version {later}, of a later efface, but this one reads {SCHEMA_VERSION}: install the" in said


def test_passport_of_another_efface_is_compared_by_its_digests_alone(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    edit(run_dir, lambda p: p.update(written_by="99.0"), "passport.json")
    assert verified(run_dir) == (0, "")
    (run_dir / MODEL_FILE).write_bytes(b"")
    assert verified(run_dir)[0] == 1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: (run / "record.json").unlink(), "holds no run and no export"),
        (lambda run: (run / "record.json").write_text("{"), "is damaged"),
        (lambda run: edit(run, lambda r: r.update(status="failed", reason="why")), "its run is failed (why)"),
    ],
    ids=["no record", "half a record", "failed"],
)
def test_folder_that_cannot_be_read_is_named(results: Path, break_it: Any, message: str, verified: Any) -> None:
    run_dir = run_of(results)
    break_it(run_dir)
    status, said = verified(run_dir)
    assert status == 2
    assert message in said


def test_missing_file_is_named(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    (run_dir / "predictions.parquet").unlink()
    status, said = verified(run_dir)
    assert status == 1
    assert "predictions.parquet is gone" in said
