"""What a passport is made from: a record, the labels that it was tested on, and the record of its base model."""

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface.files import file_digest
from efface.identity import run_subdir
from efface.passport.schema import Passport
from efface.record import RECORD, Record

PREDICTIONS = "predictions.parquet"
_NAMING = ("protected", "attributes", "attribute", "column")
"""Options of data sets that name the attribute."""
_LEVELS = 6
"""Folders from the results to a run: dataset, model, training, method, id, seed."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a run left."""

    record: Record
    digest: str
    """SHA-256 of the record."""
    test_groups: Mapping[tuple[int, int], int]
    """Samples of each (label, attribute) on test; empty where a run leaves no predictions."""
    base: Record | None
    """Of `method=none`, with the same configuration, seed and data."""
    base_digest: str | None
    base_reason: str | None
    """Why the base is not known."""

    @classmethod
    def read(cls, run_dir: Path) -> "Facts":
        """Read a run.

        Raises:
            FileNotFoundError: there is no finished run, or a file that its record names is gone.
            ValueError: the record is damaged, the method did not apply, or a file is not the one of the record.
        """
        path = run_dir / RECORD
        if not path.is_file():
            raise FileNotFoundError(f"{run_dir} holds no finished run: it has no {RECORD}")
        record = Record.read(path)
        if record.status != "done":
            raise ValueError(f"{run_dir} holds no model: its run is {record.status} ({record.reason})")
        for name, digest in record.artifacts.items():
            if not (run_dir / name).is_file():
                raise FileNotFoundError(f"{run_dir / name} is gone: run the job again")
            if file_digest(run_dir / name) != digest:
                raise ValueError(f"{run_dir / name} is not the file of {path}: it was changed since; run the job again")
        groups = _groups(run_dir / PREDICTIONS) if PREDICTIONS in record.artifacts else {}
        base = (record, path, None) if record.config["method"]["name"] == "none" else _base(run_dir, record)
        return cls(
            record=record,
            digest=file_digest(path),
            test_groups=groups,
            base=base[0],
            base_digest=file_digest(base[1]) if base[0] is not None else None,
            base_reason=base[2],
        )

    def with_base(self, passport: Passport) -> "Facts":
        """Return the same with the base model's figures as a passport has them, whose record may lie elsewhere."""
        if not passport.base.known:
            return replace(self, base=None, base_digest=None, base_reason=passport.base.reason)
        figures = passport.figures
        values = {figure.key: figure.base_parts or figure.base for figure in figures}
        bounds = {figure.key: list(figure.base_interval) for figure in figures if figure.base_interval is not None}
        record = self.record.model_copy(update={"id": str(passport.base.run), "metrics": values, "metrics_ci": bounds})
        return replace(self, base=record, base_digest=passport.base.record, base_reason=None)

    @property
    def is_language_model(self) -> bool:
        """Whether a language model was scrubbed; else a classifier was debiased."""
        return "layers" in self.record.info

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of the method."""
        return Options(self.record.config["method"])

    @property
    def info(self) -> Mapping[str, Any]:
        """What the run reports beside metrics."""
        return self.record.info

    @property
    def attribute(self) -> str:
        """What was to be removed, in the data set's words where it has some."""
        return " and ".join(self._columns) or "the protected attribute"

    @property
    def _columns(self) -> list[str]:
        """Columns of the data that make up the attribute; none where the data set names none."""
        for key in _NAMING:
            value = self.record.config["dataset"].get(key)
            if value and isinstance(value, str | list):
                return [value] if isinstance(value, str) else [str(name) for name in value]
        return []

    @functools.cached_property
    def names(self) -> Mapping[str, str]:
        """Names, in the data's words, of the labels `y=…` and groups `y=…,a=…` of test; empty if the record has none.

        So is it where two groups would have one name.
        """
        known = self.info.get("names")
        if not known:
            return {}
        labels = _values([known["target"]] if known["target"] else [], known["classes"], otherwise="y")
        values = _values(self._columns, known["attributes"], otherwise="a")
        names = {f"y={y}": label for y, label in enumerate(labels)}
        names |= {f"y={y},a={a}": f"{labels[y]}, {values[a]}" for y, a in sorted(self.test_groups)}
        return names if len(set(names.values())) == len(names) else {}

    @functools.cached_property
    def attribute_counts(self) -> Mapping[int, int]:
        """Samples of each value of the attribute on test."""
        counts: dict[int, int] = {}
        for (_, a), n in self.test_groups.items():
            counts[a] = counts.get(a, 0) + n
        return counts

    @property
    def attribute_values(self) -> int | None:
        """How many values the attribute has; None where the record does not tell."""
        keys = self.record.metrics.get("group_accuracy") or {}
        values = {key.partition(",a=")[2] for key in keys}
        return len(values) or len(self.info.get("tags", ())) or None

    @property
    def attribute_entropy(self) -> float | None:
        """Bits that the attribute holds on test; None where the record does not tell."""
        n = self.n_test
        if not n:
            return None
        return -sum(m / n * math.log2(m / n) for m in self.attribute_counts.values())

    @property
    def n_test(self) -> int | None:
        """Samples of test; None where a run leaves no predictions."""
        return sum(self.test_groups.values()) or None

    def metric(self, key: str, *, base: bool = False) -> float | None:
        """Return a metric that is one number; None if it is null, or is not there."""
        record = self.base if base else self.record
        value = None if record is None else record.metrics.get(key)
        return float(value) if isinstance(value, int | float) else None

    def interval(self, key: str, *, base: bool = False) -> tuple[float, float] | None:
        """Return its 95 % interval; None where there is none."""
        record = self.base if base else self.record
        bounds = None if record is None else record.metrics_ci.get(key)
        return (float(bounds[0]), float(bounds[1])) if bounds else None


class Options(dict[str, Any]):
    """Options by name, of which a missing one is an error that says so."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(
            f"the record's method {self.get('name')!r} has no option {key!r}: it was edited, or is of another version "
            "of efface; run its job again"
        )


def _values(columns: Sequence[str], values: Sequence[str], *, otherwise: str) -> list[str]:
    """Return `income=>50K` for each value; the value alone where all say what they are of, such as `not Male`.

    Args:
        columns: what they are values of.
        values: by their numbers.
        otherwise: what they are of where there is no column.
    """
    words = [re.compile(rf"(?<!\w){re.escape(column)}(?!\w)") for column in columns]
    if words and all(any(word.search(value) for word in words) for value in values):
        return list(values)
    return [f"{' and '.join(columns) or otherwise}={value}" for value in values]


def _groups(path: Path) -> dict[tuple[int, int], int]:
    import pandas as pd

    labels = pd.read_parquet(path, columns=["y", "a"])
    return dict(Counter(zip(labels["y"].tolist(), labels["a"].tolist(), strict=True)))


def _base(run_dir: Path, record: Record) -> tuple[Record | None, Path, str | None]:
    """Return the record of the base model, its path, and why there is none."""
    config = {**record.config, "method": {"name": "none"}}
    place = Path(run_dir).absolute()
    results = place.parents[_LEVELS - 1] if len(place.parents) >= _LEVELS else place
    path = results / run_subdir(config, record.seed) / RECORD
    if not path.is_file():
        return None, path, "no run of method=none with this configuration and seed lies in the same results"
    try:
        base = Record.read(path)
    except ValueError as error:
        return None, path, str(error)
    if base.status != "done" or base.config != config or base.fingerprint != record.fingerprint:
        return None, path, "the run of method=none beside this one failed, or is of another configuration or other data"
    return base, path, None
