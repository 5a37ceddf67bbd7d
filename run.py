#!/usr/bin/env python
"""Compose a configuration, run it, leave a record: `python run.py --help`.

Only what Hydra needs is imported at the top, so that `--help` and `--cfg job` answer at once.
"""

import argparse
import difflib
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from efface.identity import NODES, run_subdir

if TYPE_CHECKING:
    from collections.abc import Callable

    from efface.record import Record
    from efface.runs.base import Run

# Threads that wait for work give up their core: with two jobs on one machine, spinning ones take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

CONF = Path(__file__).parent / "conf"
PLAIN = {"seed": int, "device": str, "objective": str, "overwrite": bool, "dry_run": bool} | dict.fromkeys(
    ("data_dir", "cache_dir", "results_dir"), str
)
"""Types of the options that belong to no group."""
UNNAMED = ("logger", "device", "overwrite", "dry_run", "data_dir", "cache_dir", "results_dir", "seed")
FAILURES = "EFFACE_FAILURES"
"""Environment variable that names the file to which the jobs of one command append their failures."""


def options(cfg: DictConfig, node: str) -> dict[str, Any]:
    """One node, resolved, as plain containers."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg[node], resolve=True, throw_on_missing=True))


def _subdir(*, _root_: DictConfig) -> str:
    return str(run_subdir({node: options(_root_, node) for node in NODES}, _root_.seed))


def _sweep_dir(*, _root_: DictConfig) -> str:
    # A dry run leaves nothing behind, but Hydra makes a directory for every job.
    return os.path.join(tempfile.gettempdir(), "efface-dry-run") if _root_.dry_run else str(_root_.results_dir)


def _run_dir(*, _root_: DictConfig) -> str:
    return os.path.join(_sweep_dir(_root_=_root_), _subdir(_root_=_root_))


def _direction(*, _root_: DictConfig) -> str:
    from efface.metrics import METRICS

    better = {metric.key: metric.direction for metric in METRICS}
    return "maximize" if better.get(_root_.objective) == "higher" else "minimize"


for _resolver in (_run_dir, _sweep_dir, _subdir, _direction):
    OmegaConf.register_new_resolver(f"efface.{_resolver.__name__[1:]}", _resolver, replace=True)


def build(cfg: DictConfig) -> "Run":
    """The configured experiment. This is the one place where Hydra makes objects."""
    from hydra.utils import get_class, get_object, instantiate

    from efface.options import check, check_type

    for key, hint in PLAIN.items():
        check_type(cfg[key], hint, name=key)

    def make(node: str) -> Any:
        given = {k: v for k, v in options(cfg, node).items() if k != "name"}
        check(get_object(given["_target_"]), given, node=node)
        try:
            return instantiate(given, _convert_="all")
        except InstantiationException as error:
            if isinstance(error.__cause__, ValueError | TypeError):
                raise ValueError(f"{node}: {error.__cause__}") from error
            raise

    # Another primary config names another kind of run, made of parts of the same names.
    kind = cast("Callable[..., Run]", get_class(cfg.get("run_class", "efface.runs.grid.GridRun")))
    return kind(
        config={node: options(cfg, node) for node in NODES},
        dataset=make("dataset"),
        model=make("model"),
        training=make("training"),
        method=make("method"),
        evaluation=make("evaluation"),
        tracker=make("logger"),
        seed=cfg.seed,
        device=cfg.device,
        data_dir=Path(cfg.data_dir),
        cache_dir=Path(cfg.cache_dir),
        results_dir=Path(cfg.results_dir),
        overwrite=cfg.overwrite,
        progress=not HydraConfig.initialized() or HydraConfig.get().launcher["_target_"].endswith("BasicLauncher"),
        label=_label(),
    )


def _label() -> str:
    """What the command line set, but for places: the name of a run where it is logged."""
    set_ = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return " ".join(text for text in set_ if text.partition("=")[0].partition(".")[0] not in UNNAMED)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one job; returns `val_metrics[objective]`, for sweepers."""
    try:
        return job(cfg)
    except Exception as error:
        if FAILURES in os.environ:
            with open(os.environ[FAILURES], "a") as file:
                file.write(f"{HydraConfig.get().runtime.output_dir}: {type(error).__name__}: {error}\0")
        raise


def job(cfg: DictConfig) -> float | None:
    """`main` without Hydra around it."""
    from efface.runs.base import execute, status

    parts = build(cfg)
    if cfg.dry_run:
        print(f"{status(parts):20} {parts.directory}")
        return None
    better = _direction_of(cfg.objective)
    started = time.perf_counter()
    record = execute(parts)
    print(f"{figures(record)}  [{time.perf_counter() - started:.1f} s]\n{parts.directory}")
    if record.status != "done":
        return None
    value = record.val_metrics.get(cfg.objective)
    return (
        None
        if value is None
        else abs(value - {"zero": 0, "one": 1}[better])
        if better in ("zero", "one")
        else float(value)
    )


def _direction_of(objective: str) -> str:
    """Which side of an objective is better; a sweeper is handed the distance of what should be zero or one."""
    from efface.metrics import METRICS

    known = {metric.key: metric.direction for metric in METRICS if metric.direction and not metric.per}
    if objective not in known:
        raise ValueError(f"objective is {objective!r}, but must be one of {', '.join(known)}")
    return known[objective]


def figures(record: "Record") -> str:
    """The figures that a person wants first."""
    wanted = ("unbiased_accuracy", "worst_group_accuracy", "counterfactual_bias", "probe_information", "bits_per_byte")
    shown = [f"{name} {record.metrics[name]:.3f}" for name in wanted if record.metrics.get(name) is not None]
    return ", ".join(shown) or f"{record.status}: {record.reason}"


def config_root(arguments: list[str]) -> Path:
    """Where the primary config that the command line asks for has its groups: conf, or the folder in it of its name."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-name", "-cn", default="")
    name = parser.parse_known_args(arguments)[0].config_name
    return CONF / name if name and (CONF / name / f"{name}.yaml").is_file() else CONF


def choices(message: str, root: Path = CONF) -> str:
    """What can be set in place of what Hydra refused: the keys beside it, and the closest one."""
    if "hydra_plugins" in message:
        return "Launchers and sweepers are an extra: pip install 'efface[launchers]'"
    missing = re.search(r"Missing mandatory value: (\S+)", message)
    if missing is not None:
        return f"Set it on the command line: {missing.group(1)}=..."
    refused = re.search(r"Could not override '([^'@]+)|Key '([^']+)' is not in struct", message)
    if refused is None:
        return ""
    key = refused.group(1) or refused.group(2)
    group, _, leaf = key.rpartition(".")
    others = ("hydra", "experiment", "scrubbing")
    groups = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name not in others)
    if group in groups:
        by_file = {file.stem: _keys(file, group) for file in sorted((root / group).glob("*.yaml"))}
        keys = sorted({name for names in by_file.values() for name in names})
        if leaf in keys:
            has = ", ".join(name for name, names in by_file.items() if leaf in names)
            return (
                f"Not every {group} of this command has it; these do: {has}. Run the others in a command of their own, "
                "into the same results_dir."
            )
        lines = [f"Keys of {group}: {', '.join(keys)}"]
    else:
        primary = root / ("config.yaml" if root == CONF else f"{root.name}.yaml")
        keys = [*groups, *(str(k) for k in OmegaConf.load(primary) if k not in ("defaults", "hydra"))]
        lines = [f"Groups and keys: {', '.join(keys)}"]
    prefix = f"{group}." if group else ""
    lines += [f"Did you mean {prefix}{name}?" for name in difflib.get_close_matches(leaf, keys, 1)]
    return "\n".join(lines)


def _keys(file: Path, group: str) -> list[str]:
    config = cast(DictConfig, OmegaConf.load(file))
    node = config.get(group, {}) if file.read_text().startswith("# @package _global_") else config
    keys = [str(key) for key in node if not str(key).startswith("_") and key not in ("defaults", "name")]
    inherited = [str(name) for name in config.get("defaults", []) if (file.parent / f"{name}.yaml").is_file()]
    return keys + [key for name in inherited for key in _keys(file.parent / f"{name}.yaml", group)]


def cli() -> None:
    """`main`, with errors said in a few lines; HYDRA_FULL_ERROR=1 gives the traceback."""
    root = config_root(sys.argv[1:])
    if root != CONF:
        sys.argv[1:1] = ["--config-path", str(root)]
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        main()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand exceptions on, to be said here
    # Where a cluster's nodes can write it too, if they run the jobs.
    shared = Path.cwd() if any("submitit" in argument for argument in sys.argv) else None
    with tempfile.TemporaryDirectory(prefix=".efface-", dir=shared) as folder:
        os.environ[FAILURES] = os.path.join(folder, "failures")
        try:
            main()
            _list_failures()  # of jobs whose sweeper goes on without them
        except KeyboardInterrupt:
            sys.exit("interrupted: nothing half-done counts as done; repeat the command to go on")
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit("\n".join(filter(None, [str(error), choices(str(error), root)])))
        except Exception as error:
            if {"-m", "--multirun"} & set(sys.argv):
                _list_failures()
            sys.exit(f"{type(error).__name__}: {error}\n(HYDRA_FULL_ERROR=1 shows the traceback)")


def _list_failures() -> None:
    """Exit with the jobs that failed, if any did."""
    failed = Path(os.environ[FAILURES])
    jobs = failed.read_text().split("\0")[:-1] if failed.is_file() else []
    if jobs:
        sys.exit("\n  ".join([f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'} failed:", *jobs]))


if __name__ == "__main__":
    cli()
