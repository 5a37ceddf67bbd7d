"""A finished run, made again from its record."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from efface.cli.compose import composed, places
from efface.cli.conf import CONF, option_files
from efface.cli.main import build
from efface.cli.repeat import choices, command
from efface.identity import NODES, run_id
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
    cfg = composed([*choices(record), f"seed={record.seed}", f"device={device}", *places(**chosen)])
    for node in NODES:
        _restore(cfg, node, record.config[node])
    run = build(cfg)
    if run_id(run.config) != record.id or not isinstance(run, GridRun):
        raise ValueError(
            f"the run {record.id} cannot be made again from its record: options have been added to conf since. Repeat "
            f"it with {command(record)}"
        )
    return run


def _restore(cfg: DictConfig, node: str, options: Mapping[str, Any]) -> None:
    """Give a node the options of a record, and no others."""
    with open_dict(cfg):
        for name in list(cfg[node]):
            if name not in options and not str(name).startswith("_"):
                del cfg[node][name]
        for name, value in options.items():
            OmegaConf.update(cfg, f"{node}.{name}", value, merge=False)


def _require_known(record: Record) -> None:
    for node in NODES:
        name = record.config[node]["name"]
        if name not in option_files(node, CONF):
            raise ValueError(
                f"{node}={name} is no file of {CONF / node}, so that this run cannot be made again from its record. Of "
                "a model from Python, export what DebiasedModel.save wrote, and measure with efface.audit(model, data)"
            )
