"""Logits computed again on the inputs that were stored with an export, by each copy of the model beside them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from efface.debiased import MODEL_FILE, Debiased
from efface.export import estimator, onnx, pretrained, program
from efface.export.stored import ATTRIBUTE, Compute, Stored, like, reference
from efface.verify.check import Check

_KNOWN: dict[str, Callable[[Path], Compute]] = {
    program.FILE: program.computing,
    onnx.FILE: onnx.computing,
    pretrained.CONFIG: pretrained.computing,
}


_PROGRAMS = {program.FILE}
"""Copies that are programs: torch evaluates what such a file says as soon as it is loaded."""


def check_logits(directory: Path, *, run_programs: bool = False) -> Iterator[Check]:
    """Compare the logits of each copy of a model with the stored ones.

    Args:
        directory: of the export.
        run_programs: run copies that are programs too, which can do whatever the user can.

    Raises:
        ValueError: the stored inputs are damaged.
    """
    stored, copies = Stored.read(directory), computations(directory, run_programs=run_programs)
    for name in sorted(_PROGRAMS):
        if (directory / name).is_file() and name not in copies:
            yield Check(f"logits of {name}", None, "it is a program, which --run-programs runs if you trust its maker")
    if stored.features is not None and (directory / MODEL_FILE).is_file():
        copies[MODEL_FILE] = lambda inputs: _of_features(directory, stored)
    if (directory / estimator.FILE).is_file():
        copies[estimator.FILE] = lambda inputs: _of_rows(directory, stored)
    if not copies and not (directory / program.FILE).is_file():
        yield Check("logits of the stored inputs", None, "no copy can be run without the network's own code")
    for name, compute in copies.items():
        what = f"logits of {name}, on {len(stored.logits)} stored inputs"
        try:
            computed = compute(stored.inputs)
        except ModuleNotFoundError as error:
            yield Check(what, None, f"{error.name} is not installed")
        except Exception as error:  # of whatever a damaged copy does
            yield Check(what, False, f"it cannot be run ({type(error).__name__}: {error})")
        else:
            yield _same(what, computed, stored)


def computations(directory: Path, *, run_programs: bool) -> dict[str, Compute]:
    """Return what computes logits from inputs by name, for each copy that needs no code of its own, by its file.

    Programs are among them only where they are to be run.
    """
    return {
        name: lambda inputs, load=load, name=name: load(directory / name)(inputs)  # type: ignore[misc]
        for name, load in _KNOWN.items()
        if (directory / name).is_file() and (run_programs or name not in _PROGRAMS)
    }


def _of_features(directory: Path, stored: Stored) -> Tensor:
    """Return what the map and the head that the method made give for the stored features, as the network has it."""
    assert stored.features is not None
    logits, _ = reference(Debiased.load(directory / MODEL_FILE), stored.features, stored.inputs.get(ATTRIBUTE))
    alike = like(logits, stored.logits)
    return logits if alike is None else alike


def _of_rows(directory: Path, stored: Stored) -> Tensor:
    """Return what the classifier of scikit-learn gives for the stored rows."""
    rows = estimator.read_rows(directory)
    return estimator.logits_of(estimator.load(directory / estimator.FILE), rows, stored.logits)


def _same(what: str, computed: Tensor, stored: Stored) -> Check:
    if computed.shape != stored.logits.shape:
        return Check(what, False, f"shape {list(computed.shape)}, but must be {list(stored.logits.shape)}")
    difference = float((computed - stored.logits).abs().max())
    close = difference <= stored.bound
    return Check(what, close, "" if close else f"they differ by up to {difference:.3g}")
