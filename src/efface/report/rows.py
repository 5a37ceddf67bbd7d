"""One record into a row of the frame of runs, each value checked to be of the kind that its column holds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from efface.identity import NODES
from efface.metrics import METRICS
from efface.record import Record
from efface.report.labels import options, printable

HEADS = ("kept", "fitted")
"""What `info.head` may say of the head of the base model."""
MIXED_HEAD = "mixed"
"""What stands there for a pool of folds: kept in some, fitted in others."""
_INFO = ("rank", "n_fit", "d", "noise", "budget_allowed", "budget_spent", "retrained")
"""Numbers of a record's `info` that are columns of the frame."""
LARGEST = 1e100
"""No number of a run is larger: the square of one that is overflows where means and spreads are computed."""
MOST_FOLDS = 1000
NUMBERS = (*_INFO, "peak_memory_mb", "threads", "folds", "of_folds", "n_test", "n_people")
"""Columns that hold numbers, beside metrics and seconds."""
_KNOWN = frozenset(metric.key for metric in METRICS)


class Run(NamedTuple):
    """One record, made into rows of the frames."""

    path: Path
    record: Record
    row: dict[str, Any]
    history: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    words: list[dict[str, Any]]
    neighbours: list[dict[str, Any]]


def row_of(path: Path, record: Record) -> dict[str, Any]:
    """Return the row of one run; what names it cannot be overwritten by a metric of that name.

    Raises:
        ValueError: a value is of no kind that its column can hold; the message names it.
    """
    run, info = record.run, record.info
    names = {node: _name(record.config[node].get("name"), node) for node in NODES}
    head = {
        **names,
        "id": record.id,
        **numbers({"seed": record.seed}),
        "status": record.status,
        "reason": record.reason,
    }
    texts = tuple(name for name in record.metrics if name not in _KNOWN)
    memory = numbers({"peak_memory_bytes": run.get("peak_memory_bytes")})["peak_memory_bytes"]
    reasons = mapping(info, "reasons")
    fold_of(record.config)
    return {
        **head,
        **numbers(record.metrics, texts=texts),
        **_intervals(record.metrics_ci),
        **{f"val_{name}": value for name, value in numbers(record.val_metrics, texts=texts).items()},
        **{f"seconds_{step}": value for step, value in numbers(mapping(run, "seconds")).items()},
        "peak_memory_mb": math.nan if memory is None else memory / 1e6,
        "cache_hit_model": _one_of(mapping(run, "cache_hit"), "model", (True, False)),
        "method_name": names["method"],
        **numbers({name: info.get(name) for name in _INFO}),
        "head": _one_of(info, "head", HEADS),
        "at_edge": _one_of(info, "at_edge", (True, False)),
        "certified": _one_of(info, "certified", (True, False)),
        "uses_attribute_at_test": _one_of(info, "uses_attribute_at_test", (True, False)) or False,
        "fingerprint": record.fingerprint,
        "commit": _text(run, "commit"),
        "device": _text(run, "device"),
        "processor": _text(run, "processor"),
        **numbers({"threads": run.get("threads")}),
        "versions": " ".join(f"{name}={version}" for name, version in sorted(mapping(run, "versions").items())),
        "schema_version": record.schema_version,
        "reasons": json.dumps(dict(reasons), sort_keys=True) if reasons else None,
        **{f"{node}_options": options(record.config[node]) for node in NODES},
        "path": path.as_posix(),
        **head,
    }


def fold_of(config: Mapping[str, Any]) -> int | None:
    """Return the fold that a run of this configuration tests; None where its data have none.

    Raises:
        ValueError: it is no number from 0 to `MOST_FOLDS` - 1.
    """
    fold = config["dataset"].get("fold")
    if fold is None:
        return None
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < MOST_FOLDS:
        raise ValueError(f"config.dataset.fold is {_short(fold)}, but must be a number from 0 to {MOST_FOLDS - 1}")
    return fold


def numbers(values: Mapping[str, Any], *, texts: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values that are no dicts.

    Raises:
        ValueError: a value is no finite number up to `LARGEST` and not null, and not among those that may be `texts`.
    """
    flat = {name: value for name, value in values.items() if not isinstance(value, dict)}
    for name, value in flat.items():
        if not (value is None or _is_number(value) or (name in texts and isinstance(value, str))):
            raise ValueError(f"{name} is {_short(value)}, but must be a finite number or null")
    return flat


def mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the mapping of this name; an empty one where there is none.

    Raises:
        ValueError: it is something else.
    """
    value = values.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name} is {_short(value)}, but must be an object or null")
    return value or {}


def words_of(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return where a run of word vectors has its words on a plane, before and after: `info.plane` of a record.

    Raises:
        ValueError: it is no such thing.
    """
    plane = mapping(info, "plane")
    columns = [plane.get(name, []) for name in ("words", "attributes", "before", "after")]
    return [
        {
            **_strings({"word": word, "attribute": attribute}),
            **numbers({"before_x": before[0], "before_y": before[1], "after_x": after[0], "after_y": after[1]}),
        }
        for word, attribute, before, after in zip(*columns, strict=True)
    ]


def neighbours_of(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nearest words of some words, nearest first, before and after: `info.neighbours` of a record.

    Raises:
        ValueError: it is no such thing.
    """
    before, after = (mapping(mapping(info, "neighbours"), when) for when in ("before", "after"))
    if before.keys() != after.keys():
        raise ValueError("info.neighbours has other words before than after")
    return [
        _strings({"word": word, "before": " ".join(before[word]), "after": " ".join(after[word])}) for word in before
    ]


def _strings(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is {_short(value)}, but must be a string")
    return {name: printable(value) for name, value in values.items()}


def _is_number(value: object) -> bool:
    """Return whether a value is a number that a column holds, and whose square an axis does."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else abs(value) <= LARGEST


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _intervals(bounds: Mapping[str, Any]) -> dict[str, float]:
    """Return the ends of each metric's interval over the samples of test, as `<metric>_low` and `<metric>_high`."""
    ends: dict[str, float] = {}
    for name, pair in bounds.items():
        if pair is None:
            continue
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))):
            raise ValueError(f"metrics_ci: {name} is {_short(pair)}, but must be [low, high] or null")
        ends |= {f"{name}_low": float(pair[0]), f"{name}_high": float(pair[1])}
    return ends


def _name(value: object, node: str) -> str:
    """Return the name of a node without blanks, so that what stands behind it in a label are its options."""
    words = printable("_".join(str(value).split()))
    if not isinstance(value, str | int | float) or not words:
        raise ValueError(f"config.{node}.name is {_short(value)}, but must be a text")
    return words


def _text(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is {_short(value)}, but must be a text or null")
    return value


def _one_of(values: Mapping[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    value = values.get(name)
    if value is not None and not any(value is each or (isinstance(value, str) and value == each) for each in allowed):
        raise ValueError(f"{name} is {_short(value)}, but must be one of {', '.join(map(str, allowed))}, or null")
    return value
