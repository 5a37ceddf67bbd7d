"""FMD on a table of one's own, as it comes: columns of UCI Adult in raw units. Slow, and only where the data are."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from efface.record import Record
from efface.runs import base
from efface.runs.grid import GridRun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with adult/"),
]
NUMBERS = (0, 2, 4, 10, 11, 12)
"""Columns of `adult.data` that are numbers: age, weight, years of education, capital gain and loss, hours."""
CATEGORIES = (1, 3, 5, 6, 7, 8, 9, 13)
SEX, INCOME = 9, 14
METHODS = ("none", "converge", "fmd", "fmd_unlearn")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One-hot columns and numbers in their units, people with missing values left out."""
    with (Path(os.environ["DATA_DIR"]) / "adult" / "adult.data").open() as file:
        lines = csv.reader(file, skipinitialspace=True)
        rows = np.array([row for row in lines if len(row) > INCOME and "?" not in row])
    columns = [rows[:, i].astype(np.float32)[:, None] for i in NUMBERS]
    columns += [(rows[:, i, None] == np.unique(rows[:, i])).astype(np.float32) for i in CATEGORIES]
    path = tmp_path_factory.mktemp("own") / "table.npz"
    np.savez(path, x=np.concatenate(columns, 1), y=rows[:, INCOME], a=rows[:, SEX])
    return path


@pytest.mark.filterwarnings("ignore:.*differ widely in scale:UserWarning")  # what the raw table is there for
@pytest.mark.parametrize("standardise", [False, True])
def test_fmd_does_not_harm(parts_of: Callable[..., GridRun], table: Path, standardise: bool) -> None:
    records: dict[str, Record] = {}
    for method in METHODS:
        cheap = ("evaluation.probe=false", "evaluation.mlp_probe=false", "evaluation.bootstrap=0")
        overrides = ("dataset=features", f"path={table}", f"dataset.standardise={standardise}", f"method={method}")
        records[method] = base.execute(parts_of(*overrides, *cheap), say=lambda message: None)
    test, val = (
        {method: getattr(record, part)["unbiased_accuracy"] for method, record in records.items()}
        for part in ("metrics", "val_metrics")
    )
    assert test["fmd"] >= test["none"] - 0.002
    for method in METHODS:
        assert val[method] >= val["none"], method
