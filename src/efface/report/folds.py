"""Runs that differ in the fold alone, into one row: folds are parts of one data set, and no repetitions of a run."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from efface.identity import run_id
from efface.metrics import METRICS
from efface.report import predictions as of_files
from efface.report.circumstances import CIRCUMSTANCES, one_line
from efface.report.labels import LEVELS, options
from efface.report.predictions import FILE, Estimate
from efface.report.rows import MIXED_HEAD, NUMBERS, Run, fold_of

FOLDS = 5
"""Folds of a data set that has some, as in `efface.data.people`."""
DIFFERENCE = "_difference"
"""Ends the name of a column that holds a metric minus the base model's, on the same samples."""
PATHS = "; "
"""Between the paths of a pool's runs."""
_KEY = tuple[str, int]
"""The id that the runs of a pool would have without a fold, and the seed."""
_SETTING = tuple[str, int, frozenset[str]]
"""The same without a method, and the fingerprints of the data."""


def is_fold(runs: pd.DataFrame) -> pd.Series:
    """Return which runs of a frame are of one fold, as booleans; none where their options are not known."""
    if "dataset_options" not in runs:
        return pd.Series(False, index=runs.index)
    return runs["dataset_options"].map(lambda chosen: chosen.get("fold") is not None).astype(bool)


def pool(runs: Iterable[Run], results: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Pool the folds of each configuration and seed.

    Args:
        runs: finished and failed ones; those without a fold are passed over.
        results: the folder that their paths are relative to.

    Returns:
        A row for each pool of which a run is finished and has predictions, or is not applicable, and what cannot be
        pooled, in words. A row has the columns of `row_of`; how many of the `of_folds` folds are in it (`folds`), with
        `n_test` samples of `n_people`; in `reason` which folds are missing and why; and under `<metric>_difference` the
        metric minus the base model's.
    """
    members: dict[_KEY, list[Run]] = {}
    for run in runs:
        if fold_of(run.record.config) is not None:
            members.setdefault((run_id(_without_fold(run.record.config)), run.record.seed), []).append(run)
    pools, problems = {}, []
    for key, group in members.items():
        if all(run.record.status == "failed" for run in group):
            continue
        try:
            made, lacking = _Pool.of(key, group, results)
        except ValueError as error:
            problems.append(f"folds of {group[0].path}: {one_line(error)}")
            continue
        problems += lacking
        if made.parts or not lacking:
            pools[key] = made
    bases = {_setting(made): made for made in pools.values() if made.method == "none" and made.parts}
    rows = []
    for made in pools.values():
        try:
            rows.append(_row(made, bases.get(_setting(made))))
        except ValueError as error:
            problems.append(f"folds of {made.runs[min(made.runs)].path}: {one_line(error)}")
    return rows, problems


def _without_fold(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "dataset": {key: value for key, value in config["dataset"].items() if key != "fold"}}


class _Part(NamedTuple):
    """A finished fold."""

    run: Run
    predictions: pd.DataFrame


@dataclass(frozen=True)
class _Pool:
    """The folds of one configuration and seed."""

    key: _KEY
    runs: Mapping[int, Run]
    """All, by fold."""
    parts: Mapping[int, _Part]
    """Those that are finished, by fold."""
    predictions: pd.DataFrame
    """What these predicted, each sample once."""

    @classmethod
    def of(cls, key: _KEY, runs: Iterable[Run], results: Path) -> tuple["_Pool", list[str]]:
        """Read the predictions of each finished fold. Returns the pool, and which predictions cannot be read.

        Raises:
            ValueError: the folds read different files, or test one sample twice or one person in two.
        """
        by_fold = {fold_of(run.record.config) or 0: run for run in runs}
        parts, problems = {}, []
        for fold, run in sorted(by_fold.items()):
            if run.record.status != "done":
                continue
            try:
                parts[fold] = _Part(run, of_files.read(results / run.path / FILE))
            except Exception as error:  # whatever a foreign file holds, as of a record
                problems.append(f"{run.path} is not pooled: {one_line(error)}")
        predictions = _joined([part.predictions for part in parts.values()])
        if len({part.run.record.fingerprint for part in parts.values()}) > 1:
            raise ValueError("they read different data files: run them all again on one version of the data")
        for name, what in (("index", "samples tested twice"), ("cluster", "people in two tests")):
            if twice := _in_several(name, [part.predictions for part in parts.values()]):
                raise ValueError(f"they are no folds ({what}: {twice:,})")
        return cls(key, by_fold, parts, predictions), problems

    @property
    def method(self) -> str:
        return str(next(iter(self.runs.values())).record.config["method"]["name"])

    @property
    def of_folds(self) -> int:
        return max(FOLDS, *(fold + 1 for fold in self.runs))

    def missing(self) -> str:
        """Return in words which folds are not pooled, and why."""
        reasons = {fold: self._why_missing(fold) for fold in range(self.of_folds) if fold not in self.parts}
        by_reason = {why: [fold for fold in reasons if reasons[fold] == why] for why in reasons.values()}
        parts = ((why, "folds" if len(which) > 1 else "fold", which) for why, which in by_reason.items())
        return "; ".join(f"{noun} {', '.join(map(str, which))}: {why}" for why, noun, which in parts)

    def _why_missing(self, fold: int) -> str:
        if fold not in self.runs:
            return "no run"
        record = self.runs[fold].record
        if record.status == "done":
            return "no predictions that can be read"
        return f"{'failed' if record.status == 'failed' else 'not applicable'}, {one_line(record.reason)}"


def _in_several(name: str, frames: Sequence[pd.DataFrame]) -> int:
    """Return how many values of a column are in several frames, or, of `index`, in one frame twice."""
    values = [frame[name] if name == "index" else frame[name].drop_duplicates() for frame in frames if name in frame]
    return int(pd.concat(values).duplicated().sum()) if values else 0


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the predictions of all folds, with clusters if all have them."""
    known = all("cluster" in frame for frame in frames)
    columns = [frame if known else frame.drop(columns="cluster", errors="ignore") for frame in frames]
    return pd.concat(columns, ignore_index=True) if columns else pd.DataFrame()


def _setting(pool: _Pool) -> _SETTING:
    """Return what a pool shares with that of its base model."""
    config = _without_fold(next(iter(pool.runs.values())).record.config)
    fingerprints = frozenset(str(part.run.record.fingerprint) for part in pool.parts.values())
    return run_id({**config, "method": {}}), pool.key[1], fingerprints


def _row(pool: _Pool, base: _Pool | None) -> dict[str, Any]:
    """Return the row of a pool; without a finished fold, that of its first run, with the reason."""
    first = next(iter(pool.parts.values())).run if pool.parts else pool.runs[min(pool.runs)]
    shared = {
        "id": pool.key[0],
        "dataset_options": options(_without_fold(first.record.config)["dataset"]),
        "folds": len(pool.parts),
        "of_folds": pool.of_folds,
        "n_test": len(pool.predictions),
        "n_people": pool.predictions["cluster"].nunique() if "cluster" in pool.predictions else None,
    }
    if not pool.parts:
        return {**first.row, **shared}
    estimates, reasons = _metrics(pool)
    differences = {} if base is None or base is pool else of_files.difference(pool.predictions, base.predictions)
    return {
        **_common([part.run.row for part in pool.parts.values()]),
        **_columns(estimates),
        **_columns({f"{key}{DIFFERENCE}": each for key, each in differences.items() if key in estimates}),
        "reasons": json.dumps(reasons, sort_keys=True) if reasons else None,
        "path": PATHS.join(part.run.path.as_posix() for part in pool.parts.values()),
        **{name: first.row[name] for name in (*LEVELS, "evaluation", "method_name", "seed", "status")},
        "reason": pool.missing() or None,
        **shared,
    }


def _metrics(pool: _Pool) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Return the metrics that are one number, and why one is null.

    What predictions tell is computed from those of all folds; the rest, such as what probes read, is the mean over
    folds, weighted by the size of test.
    """
    measured = of_files.measure(pool.predictions)
    records = {fold: part.run.record for fold, part in pool.parts.items()}
    sizes = [len(part.predictions) for part in pool.parts.values()]
    rows = [part.run.row for part in pool.parts.values()]
    names = [metric.key for metric in METRICS if not metric.per and any(metric.key in row for row in rows)]
    estimates = {name: measured.get(name) or _averaged(rows, name, sizes) for name in names}
    reasons: dict[str, str] = {}
    for name in (name for name, each in estimates.items() if math.isnan(each.value)):
        said = {fold: str(why) for fold, each in records.items() if (why := (each.info.get("reasons") or {}).get(name))}
        if said:
            fold, why = next(iter(said.items()))
            reasons[name] = why if set(said.values()) == {why} and len(said) == len(records) else f"fold {fold}: {why}"
    return estimates, reasons


def _averaged(rows: Sequence[Mapping[str, Any]], name: str, sizes: Sequence[int]) -> Estimate:
    """Return the mean over folds weighted by size, NaN if one fold has no value.

    Folds share no sample, so that with models and probes held fixed their errors are independent: the ends of their
    intervals lie as far from the mean as the root of the sum of squares of the weighted distances.
    """
    weights = [size / sum(sizes) for size in sizes]

    def known(column: str) -> list[float]:
        return [math.nan if row.get(column) is None else float(row[column]) for row in rows]

    value = math.fsum(w * v for w, v in zip(weights, known(name), strict=True))
    below, above = (
        math.hypot(*(w * (end - v) for w, v, end in zip(weights, known(name), known(f"{name}_{side}"), strict=True)))
        for side in ("low", "high")
    )
    return Estimate(value, value - below, value + above)


def _columns(estimates: Mapping[str, Estimate]) -> dict[str, float | None]:
    """Return the columns of some metrics; None for a value that is not defined, no ends where there is no interval."""
    columns: dict[str, float | None] = {}
    for name, each in estimates.items():
        columns[name] = None if math.isnan(each.value) else each.value
        if not math.isnan(each.low):
            columns |= {f"{name}_low": each.low, f"{name}_high": each.high}
    return columns


def _common(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the rows of the folds say together of all that is no metric on test.

    Costs, sizes, ranks and metrics on val are means over folds. Circumstances and options are those of all, empty where
    they differ.
    """
    # The interval of a fold is not that of the pool, which may have none.
    names = dict.fromkeys(name for row in rows for name in row if not name.endswith(("_low", "_high")))
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name in ("at_edge", "uses_attribute_at_test"):
            columns[name] = None if set(values) == {None} else any(values)
        elif name == "head" and len(set(values)) > 1:
            columns[name] = MIXED_HEAD
        elif name.startswith(("seconds_", "val_")) or (name in NUMBERS and name not in CIRCUMSTANCES):
            known = [float(value) for value in values if isinstance(value, int | float)]
            columns[name] = sum(known) / len(known) if len(known) == len(values) else None
        elif all(value == values[0] for value in values):
            columns[name] = values[0]
        else:
            columns[name] = None
    return columns
