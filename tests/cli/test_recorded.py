"""A run made again from its record is the run of that record."""

from collections.abc import Callable

from efface.cli.recorded import run_of
from efface.record import Record
from efface.runs.grid import GridRun


def test_files_by_split_that_a_run_did_not_name_are_not_those_of_the_yaml(parts_of: Callable[..., GridRun]) -> None:
    run = parts_of("dataset=bias_in_bios", "~dataset.path.val", "dataset.path.train=a.csv", "dataset.path.test=b.csv")
    assert run.config["dataset"]["path"] == {"train": "a.csv", "test": "b.csv"}
    record = Record(id=run.directory.parent.name, config=run.config, seed=0, fingerprint="f", status="done")
    assert run_of(record).config == run.config
