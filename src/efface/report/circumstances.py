"""Under what circumstances runs were made: what all of them share, and what makes them hard to compare."""

from collections.abc import Sequence

import pandas as pd

from efface.report.labels import printable

CIRCUMSTANCES = {
    "commit": "commits of the code",
    "schema_version": "schema versions",
    "device": "devices",
    "processor": "kinds of processor",
    "threads": "numbers of threads",
    "versions": "versions of",
}
"""Columns of the frame of runs that do not change what is computed, but can change its result; with their plurals.

In `versions` stand those of several packages, `name=version name=version`.
"""
_UNKNOWN = "unknown"


def one_line(text: object) -> str:
    """Return a note as one line of printable characters, so that no foreign text can begin another."""
    return printable(" ".join(str(text).split()))


def seeds_in_words(seeds: Sequence[object]) -> str:
    """Return `seed 0` or `seeds 0, 1`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def flags(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return what makes rows of one table hard to compare: several commits, versions, machines or data files."""
    done = runs[runs["status"] == "done"]
    notes = []
    for plural, values in _by_plural(done).items():
        if len(set(values)) > 1:
            parts = "; ".join(f"{value} ({values.count(value)} runs)" for value in sorted(set(values)))
            notes.append(f"mixed {plural}: {parts}")
    if "fingerprint" in done:
        for dataset, group in done.groupby("dataset", sort=True):
            prints = sorted(map(one_line, group["fingerprint"].dropna().unique()))
            if len(prints) > 1:
                notes.append(f"{dataset}: runs read different data files (fingerprints {', '.join(prints)})")
    return tuple(notes)


def mixed(runs: pd.DataFrame) -> dict[str, str]:
    """Return in what finished runs of one id differ, which a reader would take for the spread over seeds; by id."""
    done = runs[runs["status"] == "done"]
    notes: dict[str, list[str]] = {}
    for plural, values in _by_plural(done).items():
        if len(set(values)) < 2:
            continue
        by_id: dict[str, dict[str, list[int]]] = {}
        for identity, value, seed in zip(done["id"], values, done["seed"], strict=True):
            by_id.setdefault(identity, {}).setdefault(value, []).append(seed)
        for identity, seeds in by_id.items():
            if len(seeds) > 1:
                which = "; ".join(f"{value} ({seeds_in_words(seeds[value])})" for value in sorted(seeds))
                notes.setdefault(identity, []).append(f"{plural}: {which}")
    return {identity: ", and ".join(parts) for identity, parts in notes.items()}


def shared(runs: pd.DataFrame) -> str:
    """Return in words under which circumstances all finished runs were made; empty where there are none."""
    done = runs[runs["status"] == "done"]
    if len(done) == 0:
        return ""
    known = {column: [value for value in _values(done, column) if value != _UNKNOWN] for column in CIRCUMSTANCES}
    one = {column: values[0] for column, values in known.items() if len(values) == len(done) and len(set(values)) == 1}
    parts = [
        f"with {_threads(known['threads'], len(done))}",
        *([f"on {one['processor']}"] if "processor" in one else []),
        *([f"and {one['device']}"] if one.get("device", "cpu") != "cpu" else []),
        *([f"under {one['versions']}"] if one.get("versions") else []),
    ]
    return f"All runs were made {', '.join(parts)}."


def _threads(known: Sequence[str], n_runs: int) -> str:
    """Return in words with how many threads runs were made, some of which may not have recorded it."""
    if not known:
        return "a number of threads not recorded"
    if len(set(known)) > 1:
        return "numbers of threads that differ"
    gaps = " where it is recorded" if len(known) < n_runs else ""
    return f"{known[0]} thread{'' if known[0] == '1' else 's'}{gaps}"


def _by_plural(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Return the values of each circumstance as text, one for each run; of each package its versions."""
    values = {plural: _values(runs, column) for column, plural in CIRCUMSTANCES.items() if column != "versions"}
    versions = [dict(word.partition("=")[::2] for word in text.split()) for text in _values(runs, "versions")]
    for package in sorted({name for each in versions for name in each} - {_UNKNOWN}):
        plural = f"{CIRCUMSTANCES['versions']} {package}"
        values[plural] = [each.get(package, _UNKNOWN) for each in versions]
    return values


def _values(runs: pd.DataFrame, column: str) -> list[str]:
    """Return the values of a column as text, one for each run; where the column is missing all are unknown."""
    if column not in runs:
        return [_UNKNOWN] * len(runs)
    return [_UNKNOWN if pd.isna(value) else _text(value) for value in runs[column]]


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else one_line(value)
