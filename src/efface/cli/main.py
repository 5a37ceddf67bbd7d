"""Compose a configuration, run it, leave a record.

Only what Hydra needs is imported at the top, so that `--help` and `--cfg job` answer at once.
"""

import contextlib
import functools
import importlib
import os
import sys
import threading
import time
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from efface.cli.conf import CONF
from efface.cli.resolvers import SCRATCH, register, resolved
from efface.identity import NODES

if TYPE_CHECKING:
    from collections.abc import Callable

    from efface.record import Record
    from efface.runs.base import Run

# Threads that wait for work give up their core: with two jobs on one machine, spinning ones take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
register()

UNNAMED = ("logger", "device", "overwrite", "dry_run", "data_dir", "cache_dir", "results_dir", "seed")
HEADLINE = (
    *("unbiased_accuracy", "worst_group_accuracy", "counterfactual_bias", "probe_information", "bits_per_byte"),
    *("stereoset_gender_icat", "crows_pairs"),
)
"""The metrics that a person wants first."""
COMMAND = "EFFACE_COMMAND"
"""Environment variable that holds the process id of the command, so that a job can tell whether it runs there."""
FAILURES = "failures"
"""File in the scratch folder to which jobs append their failures, each ended by a NUL."""


def build(cfg: DictConfig) -> "Run":
    """Return the configured run. This is the one place where Hydra makes objects."""
    from hydra.utils import get_object, instantiate

    from efface.cli.settings import FOLDERS, Settings, folder
    from efface.options import check

    def make(node: str) -> Any:
        values = {key: value for key, value in resolved(cfg, node).items() if key != "name"}
        check(get_object(values["_target_"]), values, node=node)
        try:
            return instantiate(values, _convert_="all")
        except InstantiationException as error:
            if isinstance(error.__cause__, ValueError | TypeError | ModuleNotFoundError):
                raise ValueError(f"{node}: {error.__cause__}") from error
            raise

    settings = Settings.of(cfg)
    # Another primary config names another kind of run, made of parts of the same names.
    kind = run_class(cfg.run_class)
    parts = {node: make(node) for node in NODES}
    check_parts(kind, parts)
    return cast("Callable[..., Run]", kind)(
        config={node: resolved(cfg, node) for node in NODES},
        **parts,
        tracker=make("logger"),
        seed=settings.seed,
        device=settings.device,
        **{name: folder(name, getattr(settings, name)) for name in FOLDERS},
        overwrite=settings.overwrite,
        progress=not HydraConfig.initialized() or HydraConfig.get().launcher["_target_"].endswith("BasicLauncher"),
        label=_label(),
    )


def run_class(name: object) -> "type[Run]":
    """Return the kind of run that `run_class` names.

    Raises:
        OptionError: it is no string, or names nothing that can be imported, or no kind of run.
    """
    from efface.options import OptionError, check_type
    from efface.runs.base import Run

    check_type(name, str, name="run_class")
    module, _, last = str(name).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), last, None)
    except (ImportError, ValueError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, Run)):
        raise OptionError(
            f"run_class is {name!r}, but must be the name of a subclass of efface.runs.base.Run that can be imported, "
            "such as efface.runs.grid.GridRun"
        )
    return kind


def check_parts(kind: "type[Run]", parts: dict[str, Any]) -> None:
    """Check that a kind of run is made of such parts, as far as its annotations are classes.

    Raises:
        OptionError: a part is of another kind of run.
    """
    from efface.options import OptionError

    hints = typing.get_type_hints(kind)
    for node, part in parts.items():
        classes = typing.get_args(hints[node]) or (hints[node],)
        nominal = all(isinstance(one, type) and not getattr(one, "_is_protocol", False) for one in classes)
        if nominal and not isinstance(part, classes):
            raise OptionError(
                f"run_class is {kind.__name__}, which takes for {node} {' or '.join(one.__name__ for one in classes)}, "
                f"and not {type(part).__name__}: leave run_class as the primary config has it, or name another config "
                "with --config-name"
            )


def _label() -> str:
    """Return what the command line set, but for places: the name of a run where it is logged."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return " ".join(text for text in overrides if text.partition("=")[0].partition(".")[0] not in UNNAMED)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one job; returns the value of its objective, for sweepers."""
    _hint_of_sweep()
    # One job at a time runs in the command itself, whose parent is a shell that may be closed.
    in_command = os.environ.get(COMMAND) == str(os.getpid())
    if HydraConfig.get().launcher["_target_"].endswith("JoblibLauncher") and not in_command:
        _end_with(os.getppid())
    try:
        return job(cfg)
    except Exception as error:
        where = HydraConfig.get().runtime.output_dir
        said = " ".join([f"{where}: {type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        # On a cluster a job may outlive the command that wants to know.
        with contextlib.suppress(OSError), (Path(os.environ[SCRATCH]) / FAILURES).open("a") as file:
            file.write(f"{said}\0")
        raise


def _hint_of_sweep() -> None:
    """Say that an experiment's sweep needs `-m`, where one run is all that was asked for."""
    config = HydraConfig.get()
    if config.mode == RunMode.RUN and config.sweeper.get("params"):
        several = ", ".join(config.sweeper.params)
        print(f"this is one run of a sweep over {several}: add -m to run all of them", file=sys.stderr)


@functools.cache
def _end_with(parent: int) -> None:
    """End this worker when its parent has: after a `kill -9` of the command it would go on, and keep its cores."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def job(cfg: DictConfig) -> float | None:
    """Do what `main` does, without Hydra around it."""
    from efface.runs.base import execute, status

    run = build(cfg)
    if cfg.dry_run:
        print(f"{status(run):20} {run.directory}")
        return None
    started = time.perf_counter()
    record = execute(run)
    metrics = [f"{name} {record.metrics[name]:.3f}" for name in HEADLINE if record.metrics.get(name) is not None]
    summary = ", ".join(metrics) or f"{record.status.replace('_', ' ')}: {record.reason}"
    print(f"{summary}  [{time.perf_counter() - started:.1f} s]\n{run.directory}")
    return objective_value(record, cfg.objective)


def objective_value(record: "Record", objective: str) -> float | None:
    """Return an objective on val; of one that should be 0 or 1, its distance from there. None if it is null.

    Raises:
        ValueError: it is null, and a sweeper that tunes needs it.
    """
    from efface.metrics import objective_direction

    value = record.val_metrics.get(objective)
    if value is not None:
        ideal = {"zero": 0.0, "one": 1.0}.get(objective_direction(objective))
        return float(value) if ideal is None else abs(value - ideal)
    if HydraConfig.initialized() and not HydraConfig.get().sweeper["_target_"].endswith("BasicSweeper"):
        reason = record.reason or record.info.get("val_reasons", {}).get(objective, "this run does not measure it")
        raise ValueError(f"objective={objective} is null on val: {reason}")
    return None
