"""The command that repeats a finished run, from its record. Loads no torch."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from efface.cli.compose import composed, places, quoted
from efface.cli.conf import CONF, option_files, root_of
from efface.identity import NODES, identity
from efface.record import Record

_SCRUBBING, _STEREOTYPES = "scrubbing", "language_model"


def command(record: Record) -> str | None:
    """Return the command that repeats a run, without directories; None if it is of a model or data from Python.

    It sets whatever differs from the yaml files, so that it repeats the run also where that was begun otherwise.
    """
    root = _root(record)
    if any(record.config[node]["name"] not in option_files(node, root) for node in NODES):
        return None
    chosen = choices(record)
    cfg = composed(chosen, root=root)
    words = ["python", "run.py", *([] if root == CONF else [f"--config-name={root.name}"]), *chosen]
    for node in NODES:
        values = _plain(cfg, node)
        for name, value in record.config[node].items():
            if name != "name" and (name not in values or values[name] != value):
                words.append(f"{'' if name in cfg[node] else '+'}{node}.{name}={_text(value)}")
    return shlex.join([*words, f"seed={record.seed}"])


def choices(record: Record) -> list[str]:
    """Return overrides that choose the files of the record's nodes."""
    nodes = [f"{node}={record.config[node]['name']}" for node in NODES]
    path = record.config["dataset"].get("path")  # of dataset=features: a top-level key, from which the node's comes
    return [*nodes, *places(path=path)] if isinstance(path, str) and "path" in _top_level(record) else nodes


def _root(record: Record) -> Path:
    if "layers" not in record.info:
        return root_of("")
    return root_of(_STEREOTYPES if "stereoset" in record.config["evaluation"] else _SCRUBBING)


def _top_level(record: Record) -> set[str]:
    file = option_files("dataset", _root(record))[record.config["dataset"]["name"]]
    return {str(key) for key in OmegaConf.load(file)}


def _plain(cfg: DictConfig, node: str) -> dict[str, Any]:
    values = OmegaConf.to_container(cfg[node], resolve=False)
    assert isinstance(values, dict)
    known = {name: cfg[node][name] for name in values if not OmegaConf.is_missing(cfg[node], name)}
    plain: dict[str, Any] = identity({node: OmegaConf.to_container(OmegaConf.create(known)) for node in NODES})[node]
    return plain


def _text(value: Any) -> str:
    """Return a value in the grammar of Hydra."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return repr(value)
