"""Names of rows and columns: equal names are told apart by the options in which they differ, in the end by the id."""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

LEVELS = ("dataset", "model", "training", "method")
"""Columns of the frame that name a table's cell, in this order; the first three are a *setting*."""

Options = Mapping[str, Any]
_ABSENT = "null"
"""What a label shows for an option that a run does not have."""


def options(node: Options) -> dict[str, Any]:
    """Return the options of one node of a configuration, nested keys joined by dots, without name and `_`-keys."""
    return {key: value for key, value in sorted(_flat(node).items()) if key != "name"}


def show(value: object) -> str:
    """Return an option's value as a label shows it: floats in full precision, no blanks."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    return printable("".join(str(value).split()))


def printable(text: str) -> str:
    """Return text in which every character can be seen: others, such as those that end a line or turn the direction of
    writing, stand as their escape.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def parse(words: str) -> dict[str, str]:
    """Return the options that `key=value key=value` names, as a label or a published number has them."""
    return {key: value for key, _, value in (word.partition("=") for word in words.split())}


def same(value: str | None, wanted: str) -> bool:
    """Return whether a shown value is the wanted one; numbers are compared as numbers."""
    try:
        return value is not None and float(value) == float(wanted)
    except ValueError:
        return value == wanted


def label(runs: pd.DataFrame) -> pd.DataFrame:
    """Append to each level's name the options in which runs differ that are alike in the levels before it.

    An option that differs is shown wherever the name stands, so that one row of a table is one method. An option that
    differs only from setting to setting, such as a data set's own defaults, is no part of a label. Runs that differ
    only in their evaluation are told apart by the method's label. Where one label would still cover two ids, the
    method's label ends with the id: runs with equal labels have equal ids.

    Args:
        runs: names in `LEVELS`; `<level>_options` and `evaluation_options` as dicts, where they are known.
    """
    runs = runs.copy()
    for i, level in enumerate(LEVELS):
        if f"{level}_options" in runs:
            runs[level] = _names(runs, level, list(LEVELS[:i]))
    return _by_id(runs)


def _names(runs: pd.DataFrame, level: str, before: list[str]) -> pd.Series:
    """Return the labels of one level."""
    settings = runs[f"{level}_options"]
    if level == "method" and "evaluation_options" in runs:
        pairs = zip(settings, runs["evaluation_options"], strict=True)
        settings = pd.Series([_merged(method, evaluation) for method, evaluation in pairs], index=runs.index)
    names = runs[level].copy()
    for rows in runs.groupby(level, sort=False).groups.values():
        blocks = [block.index for _, block in runs.loc[rows].groupby(before, sort=False)] if before else [rows]
        keys = {key for block in blocks for key in differing([settings[i] for i in block])}
        for i in rows:
            names[i] += "".join(f" {key}={show(settings[i].get(key))}" for key in sorted(keys))
    return names


def _merged(method: Options, evaluation: Options) -> dict[str, Any]:
    return {**method, **{f"evaluation.{key}" if key in method else key: value for key, value in evaluation.items()}}


def _by_id(runs: pd.DataFrame) -> pd.DataFrame:
    """Append the id to the methods of every cell that would hold several."""
    ids = runs.groupby(list(LEVELS), sort=False)["id"].transform("nunique")
    return runs.assign(method=runs["method"].where(ids < 2, runs["method"] + " id=" + runs["id"].astype(str)))


def differing(settings: Sequence[Options]) -> set[str]:
    """Return the keys under which settings differ: 1 and 1.0 are the same value, null and an absent key are not."""
    distinct = [dict(pairs) for pairs in {frozenset((k, _key(v)) for k, v in each.items()) for each in settings}]
    keys = {key for each in distinct for key in each}
    return {key for key in keys if len({each.get(key) for each in distinct}) > 1}


def _key(value: object) -> Hashable:
    """Return what two values share if and only if an id takes them for the same."""
    if isinstance(value, list | tuple):
        return "list", tuple(map(_key, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", repr(float(value))
    return type(value).__name__, str(value)


def _flat(node: Options, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            flat[f"{prefix}{key}"] = value
    return flat


def natural(text: str) -> tuple[tuple[int, float, str], ...]:
    """Return a key that sorts numbers in a name as numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", str(text))
    return tuple((1, float(part), "") if i % 2 else (0, 0.0, part) for i, part in enumerate(parts))


def method_order(method: str) -> tuple[bool, tuple[tuple[int, float, str], ...]]:
    """Return a key that sorts the model without intervention first, then by name."""
    return method.partition(" ")[0] != "none", natural(method)


def differences(runs: pd.DataFrame) -> list[str]:
    """Return the options of a method that differ between settings under one label, in words."""
    if "method_options" not in runs:
        return []
    notes = []
    for method, group in runs.groupby("method", sort=True):
        for key in sorted(differing(list(group["method_options"]))):
            by_value: dict[str, set[str]] = {}
            for setting, settings in zip(group["dataset"], group["method_options"], strict=True):
                by_value.setdefault(show(settings[key]) if key in settings else _ABSENT, set()).add(setting)
            parts = "; ".join(f"{value} on {', '.join(sorted(where))}" for value, where in sorted(by_value.items()))
            notes.append(f"{method}: {key} is {parts}")
    return notes
