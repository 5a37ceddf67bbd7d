"""The options of a run that belong to no group, and the names that make up its folder: checked before one is made."""

import dataclasses
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from efface.cli.conf import file_options, is_referred_to, option_files
from efface.identity import NODES
from efface.metrics import objective_direction
from efface.options import OptionError, check_type, options

SEEDS = 1 << 32
"""NumPy takes no larger seed."""
FOLDERS = ("data_dir", "cache_dir", "results_dir")
NAMED = NODES[:4]
"""Nodes whose names are folders."""


class UnknownKeyError(OptionError):
    """A top-level key that means nothing."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key}: there is no such option, and nothing refers to it")
        self.key = key


@options
class Settings:
    """Top-level options. The command line names them as they are named here."""

    seed: int
    device: str
    objective: str
    overwrite: bool
    dry_run: bool
    data_dir: str
    cache_dir: str
    results_dir: str

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEEDS:
            raise OptionError(f"seed is {self.seed}, but must lie between 0 and {SEEDS - 1}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise OptionError(f"device is {self.device!r}, but must be auto, cpu, cuda or cuda:<number>")
        objective_direction(self.objective)
        for name in FOLDERS:
            folder(name, getattr(self, name))

    @classmethod
    def of(cls, cfg: DictConfig) -> "Settings":
        """Take them from a composed configuration.

        Raises:
            OptionError: one is of another type, or out of its range.
        """
        values: dict[str, Any] = {field.name: cfg[field.name] for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if OmegaConf.is_config(value):
                values[name] = OmegaConf.to_container(value)
        return cls(**values)


def folder(name: str, value: object) -> Path:
    """Return the folder that an option names, with `~` expanded.

    Raises:
        OptionError: the option is no string, is empty, or begins with the `~` of somebody who has no home here.
    """
    check_type(value, str, name=name)
    if not str(value).strip():
        raise OptionError(f"{name} is empty: name a folder (a variable that it is taken from may be empty)")
    try:
        return Path(str(value)).expanduser()
    except RuntimeError as error:
        raise OptionError(f"{name} is {value!r}: {error}") from error


def check_keys(cfg: DictConfig) -> None:
    """Refuse top-level keys that mean nothing: neither options nor nodes, and no yaml takes a value from them.

    Raises:
        UnknownKeyError: there is one, such as a misspelt `+metod=leace`.
    """
    known = {field.name for field in dataclasses.fields(Settings)} | {*NODES, "logger", "run_class", "hydra"}
    for key in map(str, cfg):
        if key not in known and not is_referred_to(key) and f"${{{key}" not in OmegaConf.to_yaml(cfg):
            raise UnknownKeyError(key)


def check_names(config: Mapping[str, Any], root: Path) -> None:
    """Refuse names of nodes that are no folder's name, or that stand for something else in every table.

    Args:
        config: resolved nodes.
        root: where the yaml files of the groups are.

    Raises:
        OptionError: a name is missing, is too long, has other characters than letters, digits and `._-`, or is that of
            a yaml file with another `_target_`.
    """
    for node in NAMED:
        name, target = config[node].get("name"), config[node].get("_target_")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise OptionError(
                f"{node}.name is {name!r}, but must be a letter or digit and at most 99 more letters, digits, '.', "
                "'_' or '-': it names a folder"
            )
        file = option_files(node, root).get(name)
        if file is not None and file_options(file, node, root).get("_target_") != target:
            raise OptionError(
                f"{node}.name is {name!r}, which is the name of another {node} ({file.name}): choose a name of your own"
            )


def writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, or where it would be made. Leaves nothing behind."""
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
