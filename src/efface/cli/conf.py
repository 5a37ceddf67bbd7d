"""The yaml files of conf/: where they are, and which options each of them has.

Read without Hydra's composition, which takes a second for a group, to say what could be set in place of a mistake.
"""

import functools
import itertools
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

PACKAGE = Path(__file__).parent.parent


def _conf() -> Path:
    """Return the folder of yaml files: in the package as a wheel has it, else at the top of the clone."""
    shipped = PACKAGE / "conf"
    return shipped if shipped.is_dir() else PACKAGE.parent.parent / "conf"


CONF = _conf()
SHARED = CONF / "shared"
"""On the search path of every primary config."""


def root_of(config_name: str) -> Path:
    """Return where the groups of a primary config are: the folder in conf that has its name, else conf itself."""
    folder = CONF / config_name
    return folder if config_name and (folder / f"{config_name}.yaml").is_file() else CONF


def primary(root: Path) -> dict[str, Any]:
    """Return the primary config whose groups are in `root`, as it is written."""
    return _read(root / ("config.yaml" if root == CONF else f"{root.name}.yaml"))


def groups(root: Path) -> list[str]:
    """Return the groups that can be chosen from: `model`, `method`, `experiment`, …"""
    entries = [entry for entry in primary(root)["defaults"] if isinstance(entry, dict)]
    return [name for entry in entries for name in entry if not name.startswith("override ")]


def option_files(group: str, root: Path) -> dict[str, Path]:
    """Return the yaml files of a group by name."""
    paths = [path for folder in (root, SHARED) for path in sorted((folder / group).glob("*.yaml"))]
    return {path.stem: path for path in paths}


def file_options(file: Path, group: str, root: Path) -> dict[str, Any]:
    """Return the options of one file of a group, those inherited through its defaults list included."""
    config = _read(file)
    merged: dict[str, Any] = {}
    for entry in config.get("defaults", []):
        parent = _inherited(entry)
        if parent is not None:
            above = root if parent.startswith("/") else file.parent
            merged |= file_options(above / f"{parent.lstrip('/')}.yaml", group, root)
    node = config.get(group, {}) if file.read_text().startswith("# @package _global_") else config
    return merged | {key: value for key, value in node.items() if key != "defaults"}


def settable(file: Path, group: str, root: Path) -> list[str]:
    """Return the keys of one file of a group that a person may set."""
    return [key for key in file_options(file, group, root) if not key.startswith("_") and key != "name"]


def about(file: Path) -> str:
    """Return the comment that opens a yaml file: what it is, and how to use it."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines if not line.startswith("# @package"))


@functools.cache
def is_referred_to(key: str) -> bool:
    """Return whether any yaml file takes a value from a top-level key, as `${key}`."""
    return any(f"${{{key}{end}" in path.read_text() for path in CONF.rglob("*.yaml") for end in ("}", "."))


def _inherited(entry: object) -> str | None:
    """Return the path of the file that an entry of a defaults list inherits from; None if from none."""
    if isinstance(entry, dict):
        ((name, choice),) = entry.items()
        return None if name.startswith("override ") or choice is None else f"{name.partition('@')[0]}/{choice}"
    name = str(entry).partition("@")[0]
    return None if name == "_self_" else name


def _read(file: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file)))
