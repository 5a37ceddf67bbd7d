"""The id and the directory of a run: one id is one cell of a table, over its seeds.

Standard library only, so that the command line knows where a run goes before anything heavy is imported.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NODES = ("dataset", "model", "training", "method", "evaluation")
"""The parts of a configuration that make up a run's identity; seed, device and directories do not."""
_ADDED: dict[str, dict[str, Any]] = {
    "dataset": {"split": "official", "fold": None, "gguf_file": None, "test_documents": None},
    "model": {"revision": None, "gguf_file": None},
    "method": {"layer": None},
}
"""Options that nodes were given when runs had been recorded, and the value under which the code does what it did: such
a value is no part of the identity, so that those runs keep their ids."""


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes that make up a run's identity: their options and names, without the keys that begin with `_`.

    Those, such as `_target_`, say where the code lives, which may change without changing what it computes. Options of
    `_ADDED` are left out too, where they have the value that is named there.
    """
    return {node: _without_added(node, _plain(config[node])) for node in NODES}


def run_id(config: Mapping[str, Any]) -> str:
    """Return 16 hex digits of the SHA-256 of the sorted JSON of `identity`, numbers as floats (1 and 1.0 are one)."""
    return _hash(identity(config))[:16]


def run_id_v1(config: Mapping[str, Any]) -> str:
    """Return the id of a record of schema version 1: 8 digits, class paths included. For reports of old records."""
    return _hash({node: config[node] for node in NODES})[:8]


def run_subdir(config: Mapping[str, Any], seed: int) -> Path:
    """Return `<dataset>/<model>/<training>/<method>/<id>/seed=<seed>`."""
    names = [str(config[node]["name"]) for node in NODES[:4]]
    return Path(*names, run_id(config), f"seed={seed}")


def _hash(nodes: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_numbers_as_floats(nodes), sort_keys=True).encode()).hexdigest()


def _without_added(node: str, values: dict[str, Any]) -> dict[str, Any]:
    added = _ADDED.get(node, {})
    return {key: value for key, value in values.items() if key not in added or value != added[key]}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not str(key).startswith("_")}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _numbers_as_floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _numbers_as_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers_as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
