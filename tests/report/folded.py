"""Records of two folds with predictions whose metrics are computed by hand."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from efface.identity import run_id
from efface.record import ERROR, RECORD, Record
from efface.report import predictions
from efface.report.records import Collection

HAND = {
    0: {"index": [1, 2, 3], "y": [0, 0, 1], "a": [0, 1, 0], "y_pred": [0, 1, 1]},
    1: {"index": [4, 5, 6, 7, 8], "y": [1, 1, 1, 0, 0], "a": [1, 1, 0, 0, 1], "y_pred": [1, 0, 1, 0, 0]},
}
"""What two folds predicted: accuracies 2/3 and 4/5, by group (y, a) 2/2, 1/2, 2/2, 1/2."""
METRICS = {"accuracy": 0.5, "unbiased_accuracy": 0.5, "worst_group_accuracy": 0.5, "probe_information": 0.25}


def config(fold: int | None, method: str = "none") -> dict[str, Any]:
    names = {"dataset": "faces", "model": "linear", "training": "erm", "method": method, "evaluation": "default"}
    nodes: dict[str, Any] = {node: {"name": name} for node, name in names.items()}
    return nodes if fold is None else {**nodes, "dataset": {"name": "faces", "split": "people", "fold": fold}}


def frame(columns: dict[str, Any]) -> pd.DataFrame:
    """Predictions, of certain scores where none are said."""
    made = pd.DataFrame(columns)
    return made.assign(**{"p_y": (made["y"] == made["y_pred"]).astype(float), "p_y_cf": math.nan} | columns)


def write(
    folder: Path,
    fold: int | None,
    predicted: dict[str, Any] | None,
    *,
    method: str = "none",
    seed: int = 0,
    **record: Any,
) -> Path:
    """Write the record of one fold, and what it predicted. Returns its folder."""
    chosen = config(fold, method)
    values: dict[str, Any] = {"fingerprint": "f", "status": "done", "metrics": METRICS} | record
    made = Record(id=run_id(chosen), config=chosen, seed=seed, **values)
    path = folder / method / f"fold={fold}" / f"seed={seed}"
    path.mkdir(parents=True)
    (path / (ERROR if made.status == "failed" else RECORD)).write_text(made.to_json())
    if predicted is not None:
        frame(predicted).to_parquet(path / predictions.FILE)
    return path


def write_hand(folder: Path, **record: Any) -> None:
    for fold, predicted in HAND.items():
        write(folder, fold, predicted, **record)


def only_row(collection: Collection) -> pd.Series:
    assert len(collection.tabled) == 1
    return collection.tabled.iloc[0]
