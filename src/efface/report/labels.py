"""Names of rows and columns: what is called alike is told apart by the options in which it differs."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

LEVELS = ("dataset", "model", "training", "method")
"""Columns of the frame that name a table's cell, in this order; the first three are a *setting*."""


def options(node: Mapping[str, Any]) -> str:
    """The options of one node of a configuration as `key=value key=value`, sorted, without blanks in values."""
    flat = {key: value for key, value in _flatten(node).items() if key != "name"}
    return " ".join(f"{key}={_short(value)}" for key, value in sorted(flat.items()))


def parse(text: str) -> dict[str, str]:
    """The reverse of `options`."""
    return {key: value for key, _, value in (word.partition("=") for word in text.split())}


def label(runs: pd.DataFrame) -> pd.DataFrame:
    """Append to each level's name the options in which rows differ that are alike in the levels before it.

    What differs is shown wherever the name stands, so that one row of a table is one method; what differs from setting
    to setting alone, such as a data set's own defaults, is no part of a label. Rows that differ in their evaluation
    only are told apart by the method's label.
    """
    runs = runs.copy()
    for at, level in enumerate(LEVELS):
        given = runs[f"{level}_options"].map(parse)
        if level == "method":
            evaluation = runs["evaluation_options"].map(parse)
            given = pd.Series([a | b for a, b in zip(given, evaluation, strict=True)], index=runs.index)
        before = list(LEVELS[:at])
        names = runs[level].copy()
        for rows in runs.groupby(level, sort=False).groups.values():
            blocks = [of.index for _, of in runs.loc[rows].groupby(before, sort=False)] if before else [rows]
            keys = {key for block in blocks for key in _differing([given[i] for i in block])}
            for i in rows:
                names[i] += "".join(f" {key}={given[i].get(key, 'null')}" for key in sorted(keys))
        runs[level] = names
    return runs


def natural(text: str) -> tuple[tuple[int, float, str], ...]:
    """A key that sorts numbers in a name as numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(text))
    return tuple((1, float(part), "") if i % 2 else (0, 0.0, part) for i, part in enumerate(parts))


def method_order(method: str) -> tuple[bool, tuple[tuple[int, float, str], ...]]:
    """The model without intervention first, then by name."""
    return method.partition(" ")[0] != "none", natural(method)


def differences(runs: pd.DataFrame) -> list[str]:
    """Options of a method that differ between settings under one label, in words."""
    if "method_options" not in runs:
        return []
    found = []
    for method, group in runs.groupby("method", sort=True):
        given = group["method_options"].map(parse)
        for key in sorted(_differing(list(given))):
            by_value: dict[str, set[str]] = {}
            for setting, options_ in zip(group["dataset"], given, strict=True):
                by_value.setdefault(options_.get(key, "null"), set()).add(setting)
            parts = "; ".join(f"{value} on {', '.join(sorted(where))}" for value, where in sorted(by_value.items()))
            found.append(f"{method}: {key} is {parts}")
    return found


def _differing(given: list[dict[str, str]]) -> set[str]:
    distinct = {tuple(sorted(each.items())) for each in given}
    if len(distinct) < 2:
        return set()
    values = [dict(each) for each in distinct]
    return {key for each in values for key in each if len({other.get(key) for other in values}) > 1}


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
