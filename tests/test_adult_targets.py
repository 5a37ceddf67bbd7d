"""What the whole chain reaches on UCI Adult: slow, and only where the data are."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import CONF

from efface.record import Record
from efface.runs import base
from efface.runs.grid import GridRun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with adult/"),
]
SEEDS = (0, 1, 2)
Build = Callable[..., GridRun]


@pytest.fixture(scope="module")
def records(parts_of: Build) -> dict[str, list[Record]]:
    return {
        method: [
            base.execute(parts_of("dataset=adult", f"seed={seed}", f"method={method}"), say=lambda message: None)
            for seed in SEEDS
        ]
        for method in ("none", "unaware", "leace", "rlace", "inlp")
    }


def test_logistic_regression_is_as_good_as_it_gets(records: dict[str, list[Record]]) -> None:
    for record in records["none"]:
        assert record.metrics["accuracy"] >= 0.845
        assert record.metrics["probe_accuracy"] > 0.99  # the attribute is a column


def test_leace_takes_sex_out(records: dict[str, list[Record]]) -> None:
    for record in (*records["leace"], *records["rlace"]):
        metrics = record.metrics
        assert metrics["probe_information"] <= 0.01
        assert abs(metrics["probe_accuracy"] - metrics["probe_majority"]) <= 0.02
        assert metrics["probe_auc"] < 0.55
        low, high = record.metrics_ci["probe_information"]
        assert low <= metrics["probe_information"] <= high < 0.01
        assert metrics["max_abs_cov"] < 1e-4  # shrinkage leaves this much
        assert abs(metrics["statistical_parity_difference"]) < 0.06  # none: 0.18


def test_unaware_has_no_flip_bias_and_hides_nothing(records: dict[str, list[Record]]) -> None:
    for none, unaware in zip(records["none"], records["unaware"], strict=True):
        assert none.metrics["counterfactual_bias"] > 0.05
        assert unaware.metrics["counterfactual_bias"] == 0
        assert unaware.metrics["accuracy"] >= 0.845
        assert unaware.metrics["probe_accuracy"] > unaware.metrics["probe_majority"] + 0.1


def test_metrics_equal_those_of_aif360(records: dict[str, list[Record]], parts_of: Build) -> None:
    import pandas as pd
    from aif360.metrics import ClassificationMetric

    parts = parts_of("dataset=adult", "method=leace")
    test = parts.dataset.load(data_dir=parts.data_dir, cache_dir=parts.cache_dir, seed=0).test.aif360()  # type: ignore
    predicted = test.copy()
    predicted.labels = pd.read_parquet(parts.directory / "predictions.parquet")[["y_pred"]].to_numpy(float)
    theirs = ClassificationMetric(test, predicted, unprivileged_groups=[{"sex": 0}], privileged_groups=[{"sex": 1}])
    for name in (
        "statistical_parity_difference",
        "disparate_impact",
        "equal_opportunity_difference",
        "average_odds_difference",
        "theil_index",
    ):
        assert records["leace"][0].metrics[name] == pytest.approx(getattr(theirs, name)(), rel=1e-9), name


def test_race_and_the_mlp_run_too(parts_of: Build) -> None:
    race = base.execute(parts_of("dataset=adult", "dataset.attribute=race", "method=leace"), say=lambda message: None)
    assert race.metrics["accuracy"] > 0.84
    assert race.metrics["probe_information"] <= 0.01
    options = ("dataset=adult", "model=mlp", "training.lr=0.001", "training.epochs=20")
    none, leace, unaware = (
        base.execute(parts_of(*options, f"method={method}"), say=lambda message: None)
        for method in ("none", "leace", "unaware")
    )
    assert none.metrics["accuracy"] > 0.845
    assert leace.metrics["probe_information"] <= 0.01 < none.metrics["probe_information"]
    assert unaware.status == "not_applicable"
    assert "use model=linear" in str(unaware.reason)


@pytest.mark.timeout(900)
def test_grid_runs_through(tmp_path: Path) -> None:
    arguments = ["dataset=adult", "method=none,leace,rlace,inlp,fmd", "seed=0,1", "logger=none"]
    places = [f"results_dir={tmp_path / 'results'}", f"cache_dir={tmp_path / 'cache'}"]
    subprocess.run([sys.executable, "run.py", "-m", *arguments, *places], cwd=CONF.parent, check=True)
    assert len(list(tmp_path.glob("results/**/record.json"))) == 10
