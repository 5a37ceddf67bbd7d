"""Where a whole model comes from: a run of the command line, or what `DebiasedModel.save` wrote."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from efface.cli.recorded import run_of
from efface.cli.repeat import command
from efface.debiased import load as load_debiased
from efface.export import estimator, pretrained, program, weights
from efface.export.stored import INPUTS_FILE, Compute, Stored
from efface.export.whole import ROWS, ExportError, Whole, run_files, whole_of
from efface.models.estimators import classifier_of
from efface.passport import Passport, passport_of
from efface.record import PASSPORT_FILES, RECORD, Record
from efface.runs.base_model import base_model
from efface.runs.extraction import has_parameters


def whole_from(directory: Path, *, data_dir: str | None = None, cache_dir: str | None = None) -> Whole:
    """Read a whole model.

    Args:
        directory: of a run, or one that `DebiasedModel.save` wrote.
        data_dir, cache_dir: of a run, where its data and its base model are; None for where the command line has them.

    Raises:
        FileNotFoundError: the directory, its model, or the base model of the run is not there; the message says what to
            do.
        ValueError: the run has no model, or a file is damaged.
        ExportError: the parts do not compute what they did.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"RUN: there is no directory {directory.absolute()}")
    if (directory / INPUTS_FILE).is_file():
        return _saved(directory)
    debiased = load_debiased(directory)  # says what is wrong with a run that has none
    record = Record.read(directory / RECORD)
    run = run_of(record, data_dir=data_dir, cache_dir=cache_dir)
    if run.fingerprint() != record.fingerprint:
        raise ValueError(f"the data in {run.data_dir} are not those of the run: name theirs with --data-dir")
    extraction = base_model(run, repeat=str(command(record)))  # not None: `run_of` has made it
    dataset, rows = extraction.dataset, torch.arange(min(ROWS, len(extraction.dataset.test)))
    whole, network = whole_of(
        extraction.model,
        debiased,
        dataset.test.inputs(rows),
        dataset.test.a[rows],
        n_attributes=len(dataset.attributes),
        passport=passport_of(directory),
        run_files=run_files(directory, record),
    )
    head = network.head
    if isinstance(head, nn.Linear) and not has_parameters(extraction.model.backbone):
        columns = whole.stored.inputs["x"].flatten(1).numpy()
        return replace(whole, estimator=lambda: classifier_of(head, dataset.classes), rows=columns)
    return replace(whole, transformers=pretrained.configuration(network.module)) if network.folded else whole


def _saved(directory: Path) -> Whole:
    """Read what `DebiasedModel.save` wrote."""
    from safetensors.torch import load_file

    files = {name: directory / name for name in (program.FILE, weights.FILE, pretrained.CONFIG, estimator.FILE)}
    state = load_file(files[weights.FILE]) if files[weights.FILE].is_file() else None

    def read_program() -> ExportedProgram:
        if not files[program.FILE].is_file():
            raise ExportError(f"{directory} holds no {program.FILE}, since the network could not be traced")
        return program.load(files[program.FILE])

    def compute(tensors: Mapping[str, Tensor]) -> Compute:
        graph = read_program().module()
        named = {f"module.{name}": t for name, t in tensors.items()}
        return lambda given: torch.func.functional_call(graph, named, tuple(given.values()))

    is_estimator = files[estimator.FILE].is_file()
    return Whole(
        stored=Stored.read(directory),
        program=read_program,
        state=state,
        compute=compute,
        transformers=pretrained.read_configuration(files[pretrained.CONFIG]),
        estimator=(lambda: estimator.load(files[estimator.FILE])) if is_estimator else None,
        rows=estimator.read_rows(directory) if is_estimator else None,
        passport=Passport.read(directory / PASSPORT_FILES[0]),
        run_files=run_files(directory, Record.read(directory / RECORD)),
    )
