"""Records on disk into one tidy data frame, a row for each run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from efface.identity import run_id, run_id_v1
from efface.record import ERROR, PASSPORT_PAGE, READABLE, RECORD, Record
from efface.report import frames
from efface.report.circumstances import one_line
from efface.report.folds import is_fold, pool
from efface.report.labels import LEVELS, label, natural
from efface.report.rows import Run, mapping, neighbours_of, numbers, row_of, words_of

ARRAYS = "arrays.safetensors"
_IDS = {1: run_id_v1, 2: run_id}
"""How each schema version hashed a configuration into an id."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The runs below a folder, and all that a reader of their tables must know."""

    runs: pd.DataFrame
    """A row for each run that is finished, or that failed while others of its id are; see `collect`."""
    tabled: pd.DataFrame
    """What tables and plots are of: the runs, with the folds of one configuration and seed in one row."""
    pooled: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The rows of `tabled` that are made of folds, see `efface.report.folds.pool`."""
    problems: tuple[str, ...] = ()
    """What was left out, and why: damaged, of another schema or hash, twice there."""
    failures: tuple[str, ...] = ()
    """Runs that failed and have not been finished since."""
    histories: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Training histories: `path` of the run, `epoch`, and what was recorded in it."""
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What language models' runs record of each layer: `path` of the run, `layer` from 1, `site`, and its metrics."""
    words: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Of runs of word vectors: `path` of the run, words, their attribute, and their places on a plane before and after.
    Of each method the run of the lowest rank and seed, as of `neighbours`."""
    neighbours: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Of runs of word vectors: `path` of the run, words, and their nearest words before and after, with blanks."""
    arrays: dict[str, Path] = field(default_factory=dict)
    """Files of arrays by the run's path."""
    passports: dict[str, Path] = field(default_factory=dict)
    """Pages of passports by the run's path, of those runs that have one."""

    @property
    def beside(self) -> dict[str, pd.DataFrame]:
        """The frames that `frames.BESIDE` names."""
        return {name: getattr(self, name) for name in frames.BESIDE}


def collect(results: Path) -> Collection:
    """Return all runs below a folder of records; or those of its `runs.csv`, where it holds that and no record.

    Columns: the levels, `evaluation`, `id`, `seed`, `status`, `reason`, one for each metric on test, `<metric>_low` and
    `<metric>_high` for its interval over the samples of test, `val_<metric>` for those on val, `method_name`, numbers
    of `info` such as `rank`, `head` (kept or fitted), `at_edge`, `seconds_<step>`, `peak_memory_mb`, `cache_hit_model`,
    `fingerprint`, the `CIRCUMSTANCES`, `reasons` (JSON, by metric), `<level>_options` (dicts) and `path`. A file of an
    older version lacks some of them. Ids of one name are told apart by the options in which they differ. A record that
    cannot be used is left out and named in `problems`.

    Raises:
        FileNotFoundError: there is nothing to report.
        ValueError: a `runs.csv` that cannot be read as such a frame.
    """
    files = sorted([*results.rglob(RECORD), *results.rglob(ERROR)])
    if not files and (results / frames.RUNS).is_file():
        runs, pooled, beside = frames.read(results)
        labelled, tabled = label(runs), _tabled(runs, pooled)
        return replace(Collection(runs=labelled, tabled=tabled, pooled=_pools(tabled)), **beside)  # type: ignore[arg-type]
    finished, failed, problems = _read(files, results)
    failures = tuple(f"{run.path}: {one_line(run.record.reason)}" for run in failed)
    if not finished:
        raise FileNotFoundError(
            f"no finished run below {results.resolve()}: run something first, such as python run.py method=leace"
            + "".join(f"\n{line}" for line in (*problems, *(f"failed: {failure}" for failure in failures)))
        )
    ids = {run.record.id for run in finished}
    collected = finished + [run for run in failed if run.record.id in ids]
    runs = pd.DataFrame([run.row for run in collected])
    rows, unpooled = pool([*finished, *failed], results)
    if not rows and is_fold(runs).all():
        raise ValueError("\n".join([f"no fold below {results.resolve()} can be pooled:", *unpooled]))
    tabled = _tabled(runs, pd.DataFrame(rows))
    runs = _sorted(label(runs))
    first = set(runs[runs["status"] == "done"].drop_duplicates([*LEVELS[:3], "method_name"])["path"])
    return Collection(
        runs=runs,
        tabled=_sorted(tabled),
        pooled=_pools(_sorted(tabled)),
        problems=(*problems, *unpooled),
        failures=failures,
        histories=pd.DataFrame([row for run in collected for row in run.history]),
        layers=pd.DataFrame([row for run in collected for row in run.layers]),
        words=pd.DataFrame([row for run in collected for row in run.words if row["path"] in first]),
        neighbours=pd.DataFrame([row for run in collected for row in run.neighbours if row["path"] in first]),
        arrays={str(run.path): results / run.path / ARRAYS for run in collected if ARRAYS in run.record.artifacts},
        passports={
            run.path.as_posix(): page for run in finished if (page := results / run.path / PASSPORT_PAGE).is_file()
        },
    )


def _tabled(runs: pd.DataFrame, pooled: pd.DataFrame) -> pd.DataFrame:
    """Return runs without labels, those of folds replaced by their pools, with labels."""
    single = runs[~is_fold(runs)]
    if len(single) == 0 or len(pooled) == 0:
        return label(single if len(pooled) == 0 else pooled)
    columns = runs.columns.union(pooled.columns, sort=False)
    # An empty column says nothing of its type, and pandas warns of taking it into account.
    parts = [frame.dropna(axis=1, how="all") for frame in (single, pooled)]
    return label(pd.concat(parts, ignore_index=True).reindex(columns=columns))


def _pools(tabled: pd.DataFrame) -> pd.DataFrame:
    return tabled[tabled["of_folds"].notna()] if "of_folds" in tabled else pd.DataFrame()


def _sorted(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.sort_values([*LEVELS, "id", "seed"], key=_natural, ignore_index=True)


def _natural(column: pd.Series) -> pd.Series:
    return column if column.name == "seed" else column.map(natural)


def _read(files: Sequence[Path], results: Path) -> tuple[list[Run], list[Run], list[str]]:
    """Return finished runs, failed runs, and what is wrong; paths are relative to the results."""
    problems: list[str] = []
    seen: dict[tuple[str, int], Run] = {}
    failed: list[Run] = []
    for file in files:
        if file.name == ERROR and (file.parent / RECORD).is_file():
            continue
        try:
            run = _run(file, results)
        except Exception as error:  # whatever a foreign file holds: one bad record must not cost the others their table
            text = one_line(str(error).partition("\n")[0])
            named = text if str(file) in text else f"{file}: {text or type(error).__name__}"
            problems.append(named)
            continue
        key = (run.record.id, run.record.seed)
        if file.name == ERROR:
            failed.append(run)
        elif key in seen:
            problems.append(_twins(seen[key], run))
        else:
            seen[key] = run
    return list(seen.values()), [run for run in failed if (run.record.id, run.record.seed) not in seen], problems


def _run(file: Path, results: Path) -> Run:
    """Read one record. Raises an error of any kind for one that cannot be used."""
    record = Record.read(file, versions=READABLE)
    identity = _IDS[record.schema_version](record.config)
    if identity != record.id:
        raise ValueError(
            f"{file} has id {record.id}, but its configuration hashes to {identity}: it was edited, or written by "
            "another version of efface; run its job again"
        )
    path = file.parent.relative_to(results)
    history = mapping(record.info, "training").get("history") or []
    layers = [
        {"layer": i, "site": site.get("path"), **site} for i, site in enumerate(record.info.get("layers") or (), 1)
    ]
    place = {"path": path.as_posix()}
    return Run(
        path=path,
        record=record,
        row=row_of(path, record),
        history=[place | numbers(row) for row in history],
        layers=[place | numbers({k: v for k, v in row.items() if k != "path"}, texts=("site",)) for row in layers],
        words=[place | row for row in words_of(record.info)],
        neighbours=[place | row for row in neighbours_of(record.info)],
    )


def _twins(first: Run, other: Run) -> str:
    same = first.record.model_dump(exclude={"run"}) == other.record.model_dump(exclude={"run"})
    return (
        f"{other.path} is seed {other.record.seed} of id {other.record.id}, as is {first.path}, with "
        f"{'the same' if same else 'OTHER'} metrics: the first is taken"
    )
