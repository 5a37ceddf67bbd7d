"""The frames of a collection as CSV files, and back: `runs.csv`, `pooled.csv`, and those of `BESIDE`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from efface.metrics import METRICS
from efface.report.folds import DIFFERENCE, is_fold
from efface.report.labels import LEVELS, show
from efface.report.rows import HEADS, LARGEST, MIXED_HEAD, NUMBERS

RUNS, POOLED = "runs.csv", "pooled.csv"
BESIDE = {name: f"{name}.csv" for name in ("histories", "layers", "words", "neighbours")}
"""Files of the frames that hold more of each run than a row, by the name of their field in a collection."""
_NEEDED = (*LEVELS, "id", "seed", "status", "reason")
_METRICS = frozenset(metric.key for metric in METRICS)
_STATUSES = ("done", "not_applicable", "failed")
_TEXTS = (
    *LEVELS,
    "evaluation",
    "method_name",
    "id",
    "commit",
    "device",
    "processor",
    "versions",
    "head",
    "fingerprint",
    "reasons",
    "reason",
    "path",
    "site",
    "word",
    "attribute",
    "before",
    "after",
)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "head": (*HEADS, MIXED_HEAD),
    "at_edge": (True, False),
    "certified": (True, False),
    "uses_attribute_at_test": (True, False),
}
"""Columns that hold one of a few values."""
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet would run, or that was quoted because it did."""


def quoted(text: str) -> str:
    """Return a CSV cell that no spreadsheet takes for a formula: a leading `=`, `+`, `-` or `@` is put behind a `'`.

    Numbers stay numbers.
    """
    try:
        float(text)
    except ValueError:
        return f"'{text}" if _FORMULA.match(text) else text
    return text


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def write(runs: pd.DataFrame, pooled: pd.DataFrame, beside: Mapping[str, pd.DataFrame], folder: Path) -> list[str]:
    """Write the frames; options as JSON, floats in full. Returns the names of the files: empty frames have none.

    Args:
        runs: one row for each.
        pooled: of folds.
        beside: those of `BESIDE`.
        folder: where to write.
    """
    files = []
    others = [(BESIDE[name], frame) for name, frame in beside.items()]
    for file, frame in ((RUNS, _encoded(runs)), (POOLED, _encoded(pooled)), *others):
        if len(frame):
            texts = [name for name in map(str, frame) if frame[name].map(lambda value: isinstance(value, str)).any()]
            frame.assign(**{name: frame[name].map(_safe) for name in texts}).to_csv(folder / file, index=False)
            files.append(file)
    return files


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.DataFrame]]:
    """Read the frames of runs and of pools, with names for labels where the options are known, and those of `BESIDE`.

    Raises:
        ValueError: a file cannot be read as such a frame; the message names it, the column and the line. Or folds have
            no pool, for which their predictions would be needed, or a pool no folds.
    """
    runs = _runs(folder / RUNS)
    pooled = _runs(folder / POOLED) if (folder / POOLED).is_file() else pd.DataFrame()
    folds = runs[is_fold(runs) & (runs["status"] != "failed")]
    parts, known = _pools(folds), _pools(pooled)
    for present, wanted, has, lacks in ((parts, known, RUNS, POOLED), (known, parts, POOLED, RUNS)):
        if alone := sorted(present - wanted):
            raise ValueError(
                f"{folder / has} has folds of {alone[0]}, of which there is no row in {lacks}: put the {POOLED} there "
                f"that python -m efface.report wrote beside this {RUNS}"
            )
    return runs, pooled, {name: _beside(folder / file) for name, file in BESIDE.items()}


def _pools(runs: pd.DataFrame) -> set[str]:
    """Return what folds and their pool have in common, as text: names, options but the fold, and the seed."""
    pools = set()
    for run in runs.to_dict("records"):
        words = []
        for level in (*LEVELS, "evaluation"):
            chosen = {name: value for name, value in (run.get(f"{level}_options") or {}).items() if name != "fold"}
            words += [str(run.get(level)), *(f"{name}={show(value)}" for name, value in sorted(chosen.items()))]
        pools.add(f"{' '.join(words)}, seed {run['seed']}")
    return pools


def _encoded(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with their options as JSON."""
    texts = {name: runs[name].map(lambda value: json.dumps(value, sort_keys=True)) for name in _option_columns(runs)}
    return runs.assign(**texts)


def _beside(path: Path) -> pd.DataFrame:
    return _read_csv(path) if path.is_file() else pd.DataFrame()


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        # A run may be called `nan` or `NA`: nothing but an empty cell is nothing.
        frame = pd.read_csv(path, dtype=dict.fromkeys(_TEXTS, str), keep_default_na=False, na_values=[""])
    except ValueError as error:  # pandas' own errors and a wrong encoding are all of this kind
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    texts = list(map(str, frame.select_dtypes(exclude="number").columns))
    columns = {name: [_cell(value) for value in frame[name].tolist()] for name in texts}
    return frame.assign(**{name: pd.Series(cells, index=frame.index, dtype=object) for name, cells in columns.items()})


def _safe(value: Any) -> Any:
    return quoted(value) if isinstance(value, str) else value


def _cell(value: Any) -> Any:
    """Return what a cell that is no number holds; None for nothing."""
    if isinstance(value, str):
        return _unquoted(value)
    return None if pd.isna(value) else value


def _runs(path: Path) -> pd.DataFrame:
    runs = _read_csv(path)
    missing = [name for name in _NEEDED if name not in runs]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}: write it with python -m efface.report results")
    if len(runs) == 0:
        raise ValueError(f"{path} holds no run: write it with python -m efface.report results")
    for name in ("id", *LEVELS):
        _check(runs, path, name, runs[name].notna(), "is empty")
    _check(runs, path, "status", runs["status"].isin(_STATUSES), f"is none of {', '.join(_STATUSES)}")
    for name in ("seed", *filter(_is_numeric, map(str, runs))):
        numbers = pd.to_numeric(runs[name], errors="coerce")
        there = runs[name].notna() if name != "seed" else pd.Series(True, index=runs.index)
        _check(runs, path, name, ~there | (np.abs(numbers) <= LARGEST), "is no finite number")
        runs[name] = numbers
    for name, allowed in _CHOICES.items():
        if name in runs:
            wrong = f"is none of {', '.join(map(str, allowed))}"
            _check(runs, path, name, runs[name].isna() | runs[name].isin(allowed), wrong)
    runs["seed"] = runs["seed"].astype(int)
    runs["method_name"] = runs["method"].str.split().str[0]
    if "uses_attribute_at_test" not in runs:
        runs["uses_attribute_at_test"] = False
    runs["uses_attribute_at_test"] = runs["uses_attribute_at_test"].eq(True)  # an empty cell is a no
    if "reasons" in runs:
        _decoded(runs, path, "reasons")
    for name in _option_columns(runs):
        runs[name] = _decoded(runs, path, name)
        if (level := name.removesuffix("_options")) in LEVELS:  # labels are made anew
            runs[level] = runs[level].str.split().str[0]
    return runs


def _is_numeric(name: str) -> bool:
    """Return whether a column holds numbers: a metric, its difference to none, an end of an interval, or a cost."""
    metric = name.removeprefix("val_").removesuffix("_low").removesuffix("_high")
    known = metric in _METRICS or metric.removesuffix(DIFFERENCE) in _METRICS  # some metrics end like differences
    return known or name in NUMBERS or name.startswith("seconds_")


def _option_columns(runs: pd.DataFrame) -> list[str]:
    return [name for name in map(str, runs) if name.endswith("_options")]


def _decoded(runs: pd.DataFrame, path: Path, name: str) -> pd.Series:
    values = pd.Series([_json(cell) for cell in runs[name]], index=runs.index, dtype=object)
    wrong = "is no JSON object: write the file anew with python -m efface.report results"
    _check(runs, path, name, values.map(lambda value: isinstance(value, dict)), wrong)
    return values


def _json(cell: Any) -> Any:
    try:
        return {} if cell is None else json.loads(cell)
    except (TypeError, ValueError):
        return None


def _check(runs: pd.DataFrame, path: Path, name: str, good: pd.Series, wrong: str) -> None:
    if not good.all():
        line = int(np.flatnonzero(~good.to_numpy(dtype=bool))[0])
        raise ValueError(f"{path}, line {line + 2}: {name} is {runs[name].tolist()[line]!r}, which {wrong}")
