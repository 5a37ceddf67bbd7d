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


def run_id(config: Mapping[str, Any]) -> str:
    """8 hex digits of the SHA-256 of the sorted JSON of the nodes, numbers as floats (so that 1 and 1.0 are one)."""
    text = json.dumps({node: _numbers_as_floats(config[node]) for node in NODES}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_subdir(config: Mapping[str, Any], seed: int) -> Path:
    """`<dataset>/<model>/<training>/<method>/<id>/seed=<seed>`"""
    names = [str(config[node]["name"]) for node in NODES[:4]]
    return Path(*names, run_id(config), f"seed={seed}")


def _numbers_as_floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _numbers_as_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers_as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
