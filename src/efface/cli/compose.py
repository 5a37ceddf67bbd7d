"""Runs made from Python: the yaml files of conf, composed by Hydra as the command line composes them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from efface.cli.conf import CONF, option_files, settable
from efface.cli.resolvers import register
from efface.options import OptionError

register()


def composed(
    choices: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None, *, root: Path = CONF
) -> DictConfig:
    """Compose a primary config.

    Args:
        choices: overrides in Hydra's grammar, such as `method=leace`.
        options: values by node and name, which need no quoting. They win over the choices.
        root: the folder of its groups, see `efface.cli.conf.root_of`.

    Raises:
        OptionError: a node has no such option; the message names those it has.
    """
    with _own_hydra(), initialize_config_dir(str(root), version_base="1.3"):
        cfg = compose("config" if root == CONF else root.name, overrides=["logger=none", *choices])
    for node, values in (options or {}).items():
        for name, value in values.items():
            _require_option(cfg, node, name)
            with open_dict(cfg):
                OmegaConf.update(cfg, f"{node}.{name}", value, merge=False)
    return cfg


def require_choice(group: str, name: str) -> None:
    """Check that a group has an option of this name.

    Raises:
        OptionError: it has none; the message names those it has.
    """
    names = option_files(group, CONF)
    if name not in names:
        raise OptionError(f"{group} is {name!r}, but must be one of {', '.join(names)}")


def places(**folders: Path | str) -> list[str]:
    """Return overrides that set folders, such as `results_dir`, whatever characters their names have."""
    return [f"{name}={quoted(str(folder))}" for name, folder in folders.items()]


def quoted(text: str) -> str:
    """Return a string in the grammar of Hydra, whatever characters it has."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _require_option(cfg: DictConfig, node: str, name: str) -> None:
    if name in cfg[node] and not name.startswith("_") and name != "name":
        return
    file = option_files(node, CONF)[str(cfg[node].name)]
    names = ", ".join(settable(file, node, CONF)) or "none"
    raise OptionError(f"{node}={file.stem} has no option {name}: its options are {names}")


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Set the state of Hydra aside: the caller's program may be one of Hydra's itself."""
    other, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = other
