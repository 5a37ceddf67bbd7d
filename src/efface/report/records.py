"""Records on disk into one tidy data frame, a row for each run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from efface.identity import NODES, run_id
from efface.record import ERROR, RECORD, Record
from efface.report.labels import LEVELS, label, natural, options

RUNS, ARRAYS = "runs.csv", "arrays.safetensors"


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The runs below a folder, and all that a reader of their tables must be told."""

    runs: pd.DataFrame
    """A row for each run that is finished, or that failed while others of its id are; see `collect`."""
    problems: tuple[str, ...] = ()
    """What was left out, and why: damaged, of another schema or hash, twice there."""
    failures: tuple[str, ...] = ()
    """Runs that failed and have not been finished since."""
    histories: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """The training history by the run's path."""
    layers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What language models' runs tell of each layer, by the run's path."""
    arrays: dict[str, Path] = field(default_factory=dict)
    """Files of arrays by the run's path."""


def collect(results: Path) -> Collection:
    """All runs below a folder of records; or those of its `runs.csv`, where it holds that and no record.

    Columns: the levels, `evaluation`, `id`, `seed`, `status`, `reason`, one for each metric on test, `val_<metric>` for
    those on val, `method_name`, `rank`, `n_fit` and `d` where a method tells them, `seconds_<step>`, `peak_memory_mb`,
    `cache_hit_model`, `fingerprint`, `commit`, `versions`, `reasons` (JSON, by metric), `<level>_options` and `path`.
    Ids of one name are told apart by the options in which they differ.

    Raises:
        FileNotFoundError: there is nothing to report.
        ValueError: a `runs.csv` without the columns that every table needs.
    """
    files = sorted([*results.rglob(RECORD), *results.rglob(ERROR)])
    if not files and (results / RUNS).is_file():
        return Collection(runs=_read_csv(results / RUNS))
    records, problems, failed = _read(files, results)
    finished = {record.id for _, record in records}
    failures = tuple(f"{path}: {' '.join(str(record.reason).split())}" for path, record in failed)
    if not records:
        raise FileNotFoundError(
            f"no finished run below {results.resolve()}: run something first, such as python run.py method=leace"
            + "".join(f"\n{line}" for line in (*problems, *(f"failed: {failure}" for failure in failures)))
        )
    records += [(path, record) for path, record in failed if record.id in finished]
    runs = label(pd.DataFrame([_row(path, record) for path, record in records]))
    return Collection(
        runs=runs.sort_values([*LEVELS, "id", "seed"], key=_natural, ignore_index=True),
        problems=tuple(problems),
        failures=failures,
        histories={str(path): h for path, record in records if (h := record.info.get("training", {}).get("history"))},
        layers={str(path): layers for path, record in records if (layers := record.info.get("layers"))},
        arrays={str(path): results / path / ARRAYS for path, record in records if ARRAYS in record.artifacts},
    )


Found = list[tuple[Path, Record]]


def _natural(column: pd.Series) -> pd.Series:
    return column if column.name == "seed" else column.map(natural)


def _read(files: list[Path], results: Path) -> tuple[Found, list[str], Found]:
    """Finished runs, what is wrong, and runs that failed; paths relative to the results."""
    problems: list[str] = []
    seen: dict[tuple[str, int], tuple[Path, Record]] = {}
    failed: Found = []
    for file in files:
        path = file.parent.relative_to(results)
        if file.name == ERROR and (file.parent / RECORD).is_file():
            continue
        try:
            record = Record.read(file)
            own = run_id(record.config)
        except (ValueError, KeyError, OSError) as error:
            problems.append(str(error).splitlines()[0] if not isinstance(error, KeyError) else f"{file}: no {error}")
            continue
        if own != record.id:
            problems.append(
                f"{file} has id {record.id}, but its configuration hashes to {own}: it was edited, or written by "
                "another version of efface; run its job again"
            )
        elif file.name == ERROR:
            failed.append((path, record))
        elif (key := (record.id, record.seed)) in seen:
            first, other = seen[key]
            same = record.model_dump(exclude={"run"}) == other.model_dump(exclude={"run"})
            problems.append(
                f"{path} is seed {record.seed} of id {record.id}, as is {first}, with "
                f"{'the same' if same else 'OTHER'} figures: the first is taken"
            )
        else:
            seen[key] = (path, record)
    failed = [(path, record) for path, record in failed if (record.id, record.seed) not in seen]
    return list(seen.values()), problems, failed


def _row(path: Path, record: Record) -> dict[str, Any]:
    run, info = record.run, record.info
    row: dict[str, Any] = {node: record.config[node]["name"] for node in NODES}
    row |= {"id": record.id, "seed": record.seed, "status": record.status, "reason": record.reason}
    row |= {name: value for name, value in record.metrics.items() if not isinstance(value, dict)}
    row |= {f"val_{name}": value for name, value in record.val_metrics.items() if not isinstance(value, dict)}
    row |= {f"seconds_{step}": seconds for step, seconds in run.get("seconds", {}).items()}
    row["peak_memory_mb"] = run.get("peak_memory_bytes", float("nan")) / 1e6
    row["cache_hit_model"] = run.get("cache_hit", {}).get("model")
    row["method_name"] = record.config["method"]["name"]
    row |= {name: info.get(name) for name in ("rank", "n_fit", "d")}
    row["uses_attribute_at_test"] = bool(info.get("uses_attribute_at_test", False))
    row["fingerprint"] = record.fingerprint
    row["commit"] = run.get("commit")
    row["versions"] = " ".join(f"{name}={version}" for name, version in sorted(run.get("versions", {}).items()))
    row["reasons"] = json.dumps(info["reasons"], sort_keys=True) if info.get("reasons") else None
    row |= {f"{node}_options": options(record.config[node]) for node in NODES}
    row["path"] = path.as_posix()
    return row


_NEEDED = ("dataset", "model", "training", "method", "id", "seed", "status", "reason")


def _read_csv(path: Path) -> pd.DataFrame:
    runs = pd.read_csv(path, dtype={"id": str, "commit": str, "fingerprint": str})
    missing = [name for name in _NEEDED if name not in runs]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}: write it with python -m efface.report results")
    if "uses_attribute_at_test" not in runs:
        runs["uses_attribute_at_test"] = False
    if "method_name" not in runs:
        runs["method_name"] = runs["method"].str.split().str[0]
    given = [name for name in map(str, runs) if name.endswith("_options")]  # nothing is what a node without options has
    runs = runs.assign(**{name: runs[name].fillna("") for name in given})
    text = runs.select_dtypes(exclude="number").columns
    return runs.assign(**{name: runs[name].astype(object).where(runs[name].notna(), None) for name in text})


def flags(runs: pd.DataFrame) -> tuple[str, ...]:
    """What makes rows of one table hard to compare: several commits, versions or data files behind them."""
    done = runs[runs["status"] == "done"]
    found = []
    for column, what in (("commit", "commits of the code"), ("versions", "versions of packages")):
        names = [str(name) if isinstance(name, str) else "unknown" for name in done.get(column, [])]
        if len(set(names)) > 1:
            parts = "; ".join(f"{name} ({names.count(name)} runs)" for name in sorted(set(names)))
            found.append(f"mixed {what}: {parts}")
    if "fingerprint" in done:
        for dataset, group in done.groupby("dataset", sort=True):
            prints = sorted(group["fingerprint"].dropna().unique())
            if len(prints) > 1:
                found.append(f"{dataset}: runs read different data files (fingerprints {', '.join(prints)})")
    return tuple(found)
