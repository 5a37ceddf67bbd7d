"""What Hydra has to know of efface: where the shared yaml files are, and the `${efface....:}` that yaml files use."""

import os
import sys
from pathlib import Path
from typing import Any, cast

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from efface.cli.conf import SHARED, groups, root_of
from efface.extras import is_installed
from efface.identity import NODES, run_subdir

SCRATCH = "EFFACE_SCRATCH"
"""Environment variable that names a folder which lives as long as the command, for all of its jobs."""


class _Shared(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("efface", f"file://{SHARED}")


def resolved(cfg: DictConfig, node: str) -> dict[str, Any]:
    """Return one node, resolved, as plain containers."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg[node], resolve=True, throw_on_missing=True))


def _run_dir(*, _root_: DictConfig) -> str:
    return _folder(_root_, _subdir(_root_=_root_))


def _sweep_dir(*, _root_: DictConfig) -> str:
    return _folder(_root_)


def _subdir(*, _root_: DictConfig) -> str:
    from efface.cli.settings import check_names

    config = {node: resolved(_root_, node) for node in NODES}
    check_names(config, root_of(_root_.hydra.job.config_name))
    return str(run_subdir(config, _root_.seed))


def _folder(cfg: DictConfig, subdir: str = "") -> str:
    """Return where Hydra writes: below results_dir, or in the scratch folder if it may not or cannot write there."""
    from efface.cli.settings import Settings, check_keys, folder, writable

    if OmegaConf.is_missing(cfg.hydra.job, "num"):  # a bad option in one job of a sweep is for that job to say
        check_keys(cfg)
        Settings.of(cfg)
    target = folder("results_dir", cfg.results_dir) / subdir
    return os.path.join(os.environ[SCRATCH], subdir) if cfg.dry_run or not writable(target) else str(target)


def _direction(*, _root_: DictConfig) -> str:
    from efface.metrics import objective_direction

    return "maximize" if objective_direction(_root_.objective) == "higher" else "minimize"


def _groups(*, _root_: DictConfig) -> str:
    """Return the groups with the options of each, for the help: those of efface, and of a person's `--config-dir`."""
    sources = [source for source in _root_.hydra.runtime.config_sources if source.schema == "file"]
    lines = []
    for group in groups(root_of(_root_.hydra.job.config_name)):
        names = {file.stem for source in sources for file in (Path(source.path) / group).glob("*.yaml")}
        lines.append(f"{group}: {', '.join(sorted(names))}")
    return "\n".join(lines)


def _logger() -> str:
    return "wandb" if is_installed("wandb") else "none"


def _program() -> str:
    return "python run.py" if sys.argv[0].endswith(".py") else os.path.basename(sys.argv[0])


def register() -> None:
    """Make the shared yaml files known to Hydra, and the resolvers to OmegaConf."""
    Plugins.instance().register(_Shared)
    for resolver in (_run_dir, _sweep_dir, _subdir, _direction, _groups, _logger, _program):
        OmegaConf.register_new_resolver(f"efface.{resolver.__name__[1:]}", resolver, replace=True)
