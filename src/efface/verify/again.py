"""The stored model measured again on the data, as its run measured it."""

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from efface.cli.recorded import run_of
from efface.data.base import Dataset
from efface.debiased import MODEL_FILE, Debiased
from efface.export import pretrained, weights
from efface.export.stored import ATTRIBUTE, Compute, Inputs, two_logits
from efface.export.whole import network_inputs
from efface.methods.base import Method
from efface.methods.erasure import Erasure
from efface.passport.facts import PREDICTIONS
from efface.problem import Features, Problem
from efface.record import Record
from efface.runs.base import execute
from efface.runs.grid import GridRun
from efface.verify.check import Check, compared
from efface.verify.figures import differing
from efface.verify.logits import computations

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class StoredMethod(Method):
    """The debiased model of a finished run, in place of what its method would fit anew."""

    path: Path
    method: Method

    def training_data(self, problem: Problem) -> Features:
        return self.method.training_data(problem)

    def fit(self, problem: Problem) -> Debiased:
        debiased = Debiased.load(self.path)
        data = self.training_data(problem) if isinstance(self.method, Erasure) else None
        return replace(
            debiased,
            represent=debiased.represent.to(problem.device),
            head=debiased.head.to(problem.device),
            fitted_on=data,
        )


def check_data(
    directory: Path, record: Record, data: Path, cache_dir: Path, tolerance: float, *, run_programs: bool
) -> Iterator[Check]:
    """Compare the data with their fingerprint; if they are those, measure the stored model on them.

    The base model is taken from the cache, or trained again, which takes as long as it took at first.

    Args:
        directory: of the run or the export.
        record: of the run.
        data: the folder `data_dir`, or the one file of a data set that has a `path`.
        cache_dir: see run.py.
        tolerance: of metrics and of probabilities. Where the base model has to be trained again on a machine of another
            kind, they differ by more than rounding.
        run_programs: see `verify`.

    Raises:
        ValueError: the run is none that its configuration makes again.
        FileNotFoundError: the data are not there.
    """
    if not data.exists():
        raise FileNotFoundError(f"--data: there is no {data}: name the folder of the data, or their one file")
    with tempfile.TemporaryDirectory(prefix="efface-verify-") as folder:
        run = _run(record, data, cache_dir=cache_dir, results_dir=Path(folder))
        fingerprint, what = run.fingerprint(), "data, with the fingerprint of the record"
        if fingerprint != record.fingerprint:
            yield Check(what, False, f"these have {fingerprint}, and it was made from {record.fingerprint}")
            return
        yield Check(what, True)
        yield from _exported(directory, run, run_programs)
        run = replace(run, method=StoredMethod(path=directory / MODEL_FILE, method=run.method))
        again = execute(run, say=lambda message: None)
        yield compared("metrics, measured again on the data", list(_metrics(record, again, tolerance)))
        yield compared("predictions, made again on the data", list(_predictions(directory, run.directory, tolerance)))


def _run(record: Record, data: Path, *, cache_dir: Path, results_dir: Path) -> GridRun:
    """Return the run that a record is of, on the data named.

    Raises:
        ValueError: it is of a language model, or its configuration does not make it again.
    """
    if "layers" in record.info:
        raise ValueError("--data: a scrubbed language model is measured again by repeating its run, not from its file")
    run = run_of(record, data_dir=str(data), cache_dir=str(cache_dir), device="auto")
    return replace(run, dataset=_at(run.dataset, data), results_dir=results_dir, progress=False)


def _at(dataset: Any, data: Path) -> Any:
    """Return a data set that reads the file given, where it reads one."""
    has_path = dataclasses.is_dataclass(dataset) and "path" in {f.name for f in dataclasses.fields(dataset)}
    if data.is_file() and not has_path:
        raise ValueError(f"--data: {data} is a file, but this data set reads a folder: name the one of data_dir")
    return dataclasses.replace(dataset, path=str(data)) if has_path and data.is_file() else dataset


def _metrics(record: Record, again: Record, tolerance: float) -> Iterator[str]:
    """Say which metrics differ. What `fit` alone can tell of the samples fitted on is compared where it is known."""
    if again.status != "done":
        yield f"the method does not apply to these data: {again.reason}"
        return
    measured = dict(again.metrics)
    if measured.get("max_abs_cov") is None:
        measured["max_abs_cov"] = record.metrics.get("max_abs_cov")
    for kind, old, new in (
        ("", record.metrics, measured),
        ("on val, ", record.val_metrics, again.val_metrics | {"max_abs_cov": record.val_metrics.get("max_abs_cov")}),
        ("interval of ", record.metrics_ci, again.metrics_ci),
    ):
        for line in differing(old, new, tolerance):
            yield kind + line


def _predictions(directory: Path, other: Path, tolerance: float) -> Iterator[str]:
    import pandas as pd

    old, new = (pd.read_parquet(folder / PREDICTIONS) for folder in (directory, other))
    if len(old) != len(new) or not old[["index", "y", "a"]].equals(new[["index", "y", "a"]]):
        yield "they are of other samples"
        return
    difference = float((old["p_y"] - new["p_y"]).abs().max())
    if difference > tolerance:
        yield f"probabilities of the label differ by up to {difference:.3g}"


def _network(run: GridRun, dataset: Dataset, file: Path) -> Compute:
    """Return what the run's own network computes with exported weights. RuntimeError if they are of another."""
    from safetensors.torch import load_file

    model = run.network(dataset)
    model.load_state_dict(load_file(file), strict=True)
    model.eval()

    @torch.no_grad()
    def compute(inputs: Inputs) -> torch.Tensor:
        logits: torch.Tensor = model(inputs["x"])
        return logits

    return compute


def _exported(directory: Path, run: GridRun, run_programs: bool) -> Iterator[Check]:
    """Compare what exported copies predict for all of test with the stored predictions."""
    computing = computations(directory, run_programs=run_programs)
    copies = {name: compute for name, compute in computing.items() if name != pretrained.CONFIG}
    file = directory / weights.FILE
    if not (copies or file.is_file()) or not (directory / PREDICTIONS).is_file():
        return
    import pandas as pd

    table = pd.read_parquet(directory / PREDICTIONS)
    dataset = run.dataset.load(data_dir=run.data_dir, cache_dir=run.cache_dir, seed=run.seed)
    test, model = dataset.test, run.network(dataset)
    if file.is_file():
        try:
            copies[file.name] = _network(run, dataset, file)
        except RuntimeError:  # of load_state_dict
            yield Check(f"predictions of {file.name} on test", None, "its names are of another network than the run's")
    y, expected = torch.from_numpy(table["y"].to_numpy(copy=True)), torch.from_numpy(table["p_y"].to_numpy(copy=True))
    for name, compute in copies.items():
        what = f"predictions of {name} on test"
        parts = []
        for rows in torch.arange(len(test)).split(_BATCH):
            inputs = network_inputs(model, test.inputs(rows))
            if run.uses_attribute_at_test:
                inputs[ATTRIBUTE] = test.a[rows]
            parts.append(two_logits(compute(inputs)).double().softmax(1))
        difference = float((torch.cat(parts).gather(1, y[:, None])[:, 0] - expected).abs().max())
        close = difference <= 1e-4
        yield Check(what, close, "" if close else f"probabilities of the label differ by up to {difference:.3g}")
