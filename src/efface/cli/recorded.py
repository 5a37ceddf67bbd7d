"""A finished run, made again from its record: its parts, and the command that repeats it."""

import shlex
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from efface.cli.compose import composed, places, quoted
from efface.cli.conf import CONF, option_files
from efface.cli.main import build
from efface.identity import NODES, identity, run_id
from efface.record import Record
from efface.runs.grid import GridRun


def run_of(
    record: Record, *, data_dir: str | None = None, cache_dir: str | None = None, device: str = "cpu"
) -> GridRun:
    """Return the run that a record is of.

    Args:
        record: of a debiasing method.
        data_dir, cache_dir: where its data and its base model are; None for where the command line has them.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: a part is no file of conf, or conf has changed since.
    """
    _require_known(record)
    chosen = {name: folder for name, folder in (("data_dir", data_dir), ("cache_dir", cache_dir)) if folder is not None}
    cfg = composed([*_choices(record), f"seed={record.seed}", f"device={device}", *places(**chosen)])
    for node in NODES:
        _restore(cfg, node, record.config[node])
    run = build(cfg)
    if run_id(run.config) != record.id or not isinstance(run, GridRun):
        raise ValueError(
            f"the run {record.id} cannot be made again from its record: options have been added to conf since. Repeat "
            f"it with {command(record)}"
        )
    return run


def command(record: Record) -> str:
    """Return the command that repeats a run of the command line."""
    cfg = composed(_choices(record))
    words = ["python", "run.py", *_choices(record)]
    for node in NODES:
        for name, value in record.config[node].items():
            if name != "name" and (name not in cfg[node] or _plain(cfg, node).get(name) != value):
                words.append(f"{node}.{name}={_text(value)}")
    return shlex.join([*words, f"seed={record.seed}"])


def _choices(record: Record) -> list[str]:
    choices = [f"{node}={record.config[node]['name']}" for node in NODES]
    path = record.config["dataset"].get("path")  # of dataset=features: a top-level key, from which the node's comes
    return [*choices, *places(path=path)] if isinstance(path, str) and "path" in _top_level(record) else choices


def _top_level(record: Record) -> set[str]:
    file = option_files("dataset", CONF)[record.config["dataset"]["name"]]
    return {str(key) for key in OmegaConf.load(file)}


def _require_known(record: Record) -> None:
    for node in NODES:
        name = record.config[node]["name"]
        if name not in option_files(node, CONF):
            raise ValueError(
                f"{node}={name} is no file of {CONF / node}, so that this run cannot be made again from its record. Of "
                "a model from Python, export what DebiasedModel.save wrote, and measure with efface.audit(model, data)"
            )


def _restore(cfg: DictConfig, node: str, options: Mapping[str, Any]) -> None:
    """Give a node the options of a record, and no others."""
    with open_dict(cfg):
        for name in list(cfg[node]):
            if name not in options and not str(name).startswith("_"):
                del cfg[node][name]
        for name, value in options.items():
            OmegaConf.update(cfg, f"{node}.{name}", value, merge=False)


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
