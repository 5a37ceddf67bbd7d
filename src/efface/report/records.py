"""Records on disk into one tidy data frame, a row for each run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from efface.identity import NODES
from efface.record import ERROR, RECORD, Record

LEVELS = ("dataset", "model", "training", "method")
"""Columns of the frame that name a table's row, in this order."""


def collect(results: Path) -> tuple[pd.DataFrame, list[str]]:
    """All runs below a folder, and what could not be read.

    Columns: the levels, `evaluation`, `id`, `seed`, `status`, `reason`, one for each metric on test, `val_<metric>` for
    those on val, `method_name` and the `rank` of a projection, `seconds_<step>`, `peak_memory_mb`, `cache_hit_model`,
    `commit` and `path`. Ids of one name are told apart by the keys in which they differ. A failed run has a row if it
    has not been finished since.

    Raises:
        FileNotFoundError: there is no record.
    """
    records, problems = [], []
    for path in sorted([*results.rglob(RECORD), *results.rglob(ERROR)]):
        if path.name == ERROR and (path.parent / RECORD).is_file():
            continue
        try:
            records.append((path.parent, Record.read(path)))
        except ValueError as error:
            problems.append(str(error).splitlines()[0])
    if not records:
        raise FileNotFoundError(
            f"no {RECORD} below {results.resolve()}: run something first, such as python run.py method=leace"
            + "".join(f"\n{problem}" for problem in problems)
        )
    frame = pd.DataFrame([_row(path.relative_to(results), record) for path, record in records])
    return _label(frame, [record.config for _, record in records]), problems


def _row(path: Path, record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {node: record.config[node]["name"] for node in NODES}
    row |= {"id": record.id, "seed": record.seed, "status": record.status, "reason": record.reason}
    row |= {name: value for name, value in record.metrics.items() if not isinstance(value, dict)}
    row |= {f"val_{name}": value for name, value in record.val_metrics.items() if not isinstance(value, dict)}
    row |= {f"seconds_{step}": seconds for step, seconds in record.run.get("seconds", {}).items()}
    row["peak_memory_mb"] = record.run.get("peak_memory_bytes", float("nan")) / 1e6
    row["cache_hit_model"] = record.run.get("cache_hit", {}).get("model")
    row["method_name"] = record.config["method"]["name"]
    row["rank"] = record.info.get("rank")
    row["uses_attribute_at_test"] = bool(record.info.get("uses_attribute_at_test", False))
    row["commit"] = record.run.get("commit")
    row["path"] = str(path)
    return row


def _label(frame: pd.DataFrame, configs: list[dict[str, Any]]) -> pd.DataFrame:
    """Append to each level's name the options in which rows differ that are alike in the levels before it."""
    options = {level: [_flatten(config[level]) for config in configs] for level in (*LEVELS, "evaluation")}
    frame = frame.copy()
    # Rows that differ in their evaluation only are told apart by the method's label.
    for at, level in enumerate(LEVELS):
        labels = frame[level].copy()
        for _, group in frame.groupby([*LEVELS[:at], level], sort=False):
            rows = group.index
            parts = [options[level]] + ([options["evaluation"]] if level == "method" else [])
            for part in parts:
                for key in sorted({key for i in rows for key in part[i]}):
                    values = {i: part[i].get(key) for i in rows}
                    if len({str(value) for value in values.values()}) > 1:
                        for i, value in values.items():
                            labels[i] += f" {key}={_short(value)}"
        frame[level] = labels
    return frame


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            flat[f"{prefix}{key}"] = value
    return flat


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")
