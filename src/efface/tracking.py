"""Where a run's figures are logged while it runs: Weights & Biases, or nowhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from efface.record import Record


class Tracker(Protocol):
    """Follows one run."""

    def start(self, *, config: Mapping[str, Any], name: str, group: str, directory: Path) -> None:
        """Before anything is computed. `name` tells runs apart, `group` is one table cell over its seeds."""
        ...

    def epoch(self, row: Mapping[str, float]) -> None:
        """A row of the training history; of a cached model, all rows at once."""
        ...

    def finish(self, record: Record | None) -> None:
        """The record, or None if the run failed. Always called."""
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


@dataclass(kw_only=True)
class Wandb:
    """Weights & Biases, one of its runs for each job, also in a multirun.

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
        self._run: Any = None

    def start(self, *, config: Mapping[str, Any], name: str, group: str, directory: Path) -> None:
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_stats=True, x_disable_machine_info=True
        )
        try:
            self._run = wandb.init(
                project=self.project, entity=self.entity, mode=self.mode,  # type: ignore[arg-type]
                config=dict(config), name=name, group=group, dir=directory, settings=settings, reinit="finish_previous",
            )  # fmt: skip
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
        run.finish(exit_code=0 if record is not None else 1)
