"""Runs of a model and of data that Python holds, from the same configuration as those of the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface.cli.compose import composed, places
from efface.cli.main import build
from efface.data.base import Dataset
from efface.data.memory import InMemory, first_rows, from_memory, require_repeatable
from efface.models.given import Given, given
from efface.record import Record
from efface.runs.base import execute
from efface.runs.grid import GridRun
from efface.tensorfiles import content_digest

_ROWS = 64
"""Rows on which it is checked that a classifier is what it is taken for."""


@dataclass(frozen=True)
class Finished:
    """A run that is finished, and where."""

    record: Record
    directory: Path


@dataclass(frozen=True, kw_only=True)
class InMemoryRuns:
    """Runs of one model on one data set, by method."""

    source: Given
    dataset: Dataset
    results_dir: Path
    cache_dir: Path
    seed: int
    device: str
    evaluation: Mapping[str, Any]
    progress: bool

    @classmethod
    def of(cls, model: Any, data: Any, *, people: Any, head: str | None, **circumstances: Any) -> "InMemoryRuns":
        """Prepare a model and data as `efface.audit` takes them; `circumstances` are the other fields.

        Raises:
            HeadError: the module has no linear head, or several.
            ValueError: model or data cannot be taken; the message says why.
        """
        require_repeatable(data)
        source = given(model, first_rows(data, _ROWS), head=head)
        dataset = from_memory(data, encode=source.encode, classes=source.classes, people=people)
        return cls(source=source, dataset=dataset, **circumstances)

    def execute(self, method: str, options: Mapping[str, Any]) -> Finished:
        """Execute the run of a method, or find it finished.

        Raises:
            OptionError: the method has no such option, or it is out of range.
        """
        choices = [f"method={method}", "training=none", f"seed={self.seed}", f"device={self.device}"]
        # Of a caller's own features: its defaults of erasers are for data whose pairs are two samples.
        choices += ["dataset=features", "path=memory", *places(results_dir=self.results_dir, cache_dir=self.cache_dir)]
        run = build(composed(choices, {"method": options, "evaluation": self.evaluation}))
        assert isinstance(run, GridRun)
        model = self.source.model
        nodes = {
            "dataset": {"name": "memory", "content": self.dataset.fingerprint},
            "model": {"name": self.source.name, "weights": content_digest(model.state_dict())[:16]},
        }
        run = replace(
            run,
            config={**run.config, **nodes},
            dataset=InMemory(self.dataset),
            model=lambda **shape: model,
            progress=self.progress,
        )
        record = execute(run, say=lambda message: None)
        return Finished(record, run.directory)
