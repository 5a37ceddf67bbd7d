"""Where a run is logged while it runs: Weights & Biases, or nowhere.

`python -m efface.runs.tracking results/report` logs a finished report there: its tables, plots and page. Of the folder
of a run it logs the passport, which `python -m efface.passport` has written; of an export the passport and the model.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from efface.extras import require
from efface.files import file_digest
from efface.record import PASSPORT_FILES, RECORD, Record

_MODELS = ("model.*", "config.json")
"""Files of exported models. What else is in the folder of an export, such as rows of the data, stays where it is."""
_FINISHED = ".finished"
"""File in the folder of an offline run that has ended with its record, whose digest it holds."""


class Tracker(Protocol):
    """Follows one run."""

    def start(self, *, config: Mapping[str, Any], name: str, group: str, directory: Path) -> None:
        """Begin, before anything is computed. `name` is what was set, `group` is one table cell over its seeds."""
        ...

    def epoch(self, row: Mapping[str, float]) -> None:
        """Log a row of the training history; of a cached model, with all rows at once."""
        ...

    def finish(self, record: Record | None) -> None:
        """End, with the record, or None if the run failed."""
        ...

    def is_cut_off(self, directory: Path) -> bool:
        """Return whether the finished run there began to be followed, but no log has its record.

        If one has, the logs of later attempts that were killed or failed are removed.
        """
        ...


@dataclass(kw_only=True)
class NoTracker:
    """Logs nowhere: the record on disk has everything."""

    def start(self, *, config: Mapping[str, Any], name: str, group: str, directory: Path) -> None:
        pass

    def epoch(self, row: Mapping[str, float]) -> None:
        pass

    def finish(self, record: Record | None) -> None:
        pass

    def is_cut_off(self, directory: Path) -> bool:
        return False


@dataclass(kw_only=True)
class Wandb:
    """Weights & Biases, one of its runs for each job, also in a multirun.

    A run is named by what the command line set and tagged with its data set, model, training and method; the runs of
    one table cell, over its seeds, are a group. Metrics are in its summary, accuracies by group in tables, and the
    record with all its files (the debiased representation and head among them) is an artifact.

    Offline, a finished run has one folder: what killed or failed attempts left goes when it is tried again, and what an
    overwritten one left goes when the new one is finished.

    Args:
        project: its name there.
        mode: `offline` needs no account and writes to the run's directory, `online` needs WANDB_API_KEY (or `wandb
            login`), `disabled` does nothing. WANDB_MODE in the environment sets the default.
        entity: user or team; the account's default if None.
    """

    project: str = "efface"
    mode: str = "offline"
    entity: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online", "disabled"):
            raise ValueError(f"logger.mode is {self.mode!r}, but must be 'offline', 'online' or 'disabled'")
        require("wandb", extra="wandb", what="logger=wandb")
        self._run: Any = None
        self._directory = Path()

    def start(self, *, config: Mapping[str, Any], name: str, group: str, directory: Path) -> None:
        self._directory = directory
        self._drop_unfinished(directory)
        tags = [str(config[node]["name"]) for node in ("dataset", "model", "training", "method")]
        self._run = self._init(
            config=dict(config),
            name=name[:128],
            group=group[-128:],
            tags=sorted({tag[:64] for tag in tags}),
            dir=directory,
        )

    def _init(self, **options: Any) -> Any:
        import wandb

        # Neither the machine, nor the code, nor what is printed: only what a record holds.
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        try:
            return wandb.init(
                project=self.project,
                entity=self.entity,
                mode=self.mode,  # type: ignore[arg-type]
                settings=settings,
                reinit="finish_previous",
                **options,
            )
        except wandb.errors.Error as error:
            raise RuntimeError(
                f"Weights & Biases did not start in mode {self.mode} ({error}): set WANDB_API_KEY, "
                "or use logger.mode=offline or logger=none"
            ) from error

    def epoch(self, row: Mapping[str, float]) -> None:
        self._run.log({f"training/{key}": value for key, value in row.items()})

    def finish(self, record: Record | None) -> None:
        if self._run is None:
            return
        import wandb

        run, self._run = self._run, None
        if record is not None:
            for split, metrics in (("test", record.metrics), ("val", record.val_metrics)):
                by_group = metrics.get("group_accuracy", {})
                run.summary.update({f"{split}/{k}": v for k, v in metrics.items() if k != "group_accuracy"})
                if by_group:
                    run.log(
                        {
                            f"{split}/group_accuracy": wandb.Table(
                                ["group", "accuracy"], list(map(list, by_group.items()))
                            )
                        }
                    )
            run.summary.update({"status": record.status, "id": record.id, "info": record.info})
            files = [self._directory / name for name in (RECORD, *record.artifacts, *PASSPORT_FILES)]
            self._artifact(run, f"run-{record.id}-seed{record.seed}", "run", files)
        run.finish(exit_code=0 if record is not None else 1)
        if record is not None and self.mode == "offline":
            mine = Path(run.dir).resolve().parent
            (mine / _FINISHED).write_text(file_digest(self._directory / RECORD))
            _drop(folder for folder in _offline(self._directory) if folder != mine)

    def is_cut_off(self, directory: Path) -> bool:
        if self.mode != "offline":
            return False
        logs = _logs(directory)
        if logs and file_digest(directory / RECORD) in map(_finished_with, logs):
            self._drop_unfinished(directory)
            return False
        return bool(logs)  # of attempts that were killed or failed, or of a record that another took the place of

    @staticmethod
    def _drop_unfinished(directory: Path) -> None:
        """Remove the logs of attempts that were killed or failed."""
        _drop(folder for folder in _offline(directory) if _finished_with(folder) is None)

    def log_report(self, folder: Path) -> None:
        """Log a report's files as a run of its own: an artifact, and its plots as images.

        Raises:
            FileNotFoundError: `folder` is no report.
        """
        import wandb

        files = sorted(path for path in folder.glob("*") if path.is_file())
        if folder / "table.md" not in files:
            raise FileNotFoundError(f"{folder} is no report: make one with python -m efface.report results")
        run = self._init(name=f"report {folder.absolute().parent.name}", job_type="report", dir=folder.parent)
        run.log({path.stem: wandb.Image(str(path)) for path in files if path.suffix == ".png"})
        self._artifact(run, "report", "report", files)
        run.finish()

    def log_passport(self, folder: Path) -> None:
        """Log the passport of a finished run, or of an export, as a run of its own: an artifact.

        The files of an exported model are an artifact of their own.

        Raises:
            FileNotFoundError: the folder has no passport.
            ValueError: its record is damaged.
        """
        files = [folder / name for name in PASSPORT_FILES]
        if not all(file.is_file() for file in files):
            raise FileNotFoundError(f"{folder} has no passport: write one with python -m efface.passport {folder}")
        record = Record.read(folder / RECORD)
        name = f"passport {record.config['method']['name']} seed={record.seed}"
        # Not in the folder of the run, where every log is one of the run itself.
        run = self._init(name=name, job_type="passport", dir=folder.absolute().parent)
        self._artifact(run, f"passport-{record.id}-seed{record.seed}", "passport", files)
        models = sorted(path for pattern in _MODELS for path in folder.glob(pattern))
        if models:
            self._artifact(run, f"model-{record.id}-seed{record.seed}", "model", models)
        run.finish()

    def _artifact(self, run: Any, name: str, kind: str, files: Iterable[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for path in files:
            if path.is_file():
                # Without a copy: an offline run is synchronised while its results are there.
                artifact.add_file(str(path), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)


def how_to_log(run_dir: Path, folder: Path) -> str | None:
    """Return a sentence that names the command which logs a folder; None if its run was not logged.

    Args:
        run_dir: of the run.
        folder: with a passport of it: the same, or an export.
    """
    if not (run_dir / "wandb").is_dir():
        return None
    command = shlex.join(["python", "-m", "efface.runs.tracking", str(folder)])
    return f"the run is logged to Weights & Biases; to log this there too: {command}"


def _offline(directory: Path) -> list[Path]:
    """Return the folders of a run's offline logs, but for those that have been sent, which wandb marks."""
    return [folder for folder in _logs(directory) if not list(folder.glob("*.synced"))]


def _logs(directory: Path) -> list[Path]:
    """Return the folders of a run's offline logs, those that have been sent too."""
    return list(directory.resolve().glob("wandb/offline-run-*"))


def _finished_with(folder: Path) -> str | None:
    """Return the digest of the record with which an offline log ended; None if it was cut off."""
    file = folder / _FINISHED
    return file.read_text() if file.is_file() else None


def _drop(folders: Iterable[Path]) -> None:
    """Remove folders; the caller holds the lock of the run's folder."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str]) -> int:
    """Log the reports in the folders named."""
    tracker = Wandb(mode=os.environ.get("WANDB_MODE", "offline"))
    try:
        for folder in argv or ["results/report"]:
            log = tracker.log_passport if (Path(folder) / RECORD).is_file() else tracker.log_report
            log(Path(folder))
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
