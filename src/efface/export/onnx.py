"""--to onnx: a graph of ONNX in the default opset of torch, checked with onnxruntime."""

import logging
import warnings
from pathlib import Path

import torch

from efface.export.stored import Compute, Inputs
from efface.export.whole import ExportError, Whole, first_line
from efface.extras import require

FILE = "model.onnx"


def write(whole: Whole, folder: Path) -> None:
    """Write the graph, with the inputs' names and `logits` for its output, and check what onnxruntime computes.

    Raises:
        ExportError: an operator has no counterpart in ONNX, or onnxruntime lacks one, or the logits are others.
        ModuleNotFoundError: the extra `export` is not installed.
    """
    require("onnx", "onnxscript", "onnxruntime", extra="export", what="--to onnx")
    _convert(whole, folder / FILE)
    try:
        compute = computing(folder / FILE)
    except Exception as error:  # of whatever onnxruntime lacks; its classes are not public
        raise ExportError(f"onnxruntime cannot run {FILE} ({first_line(error)}): --to torch needs no ONNX") from error

    whole.require_same(compute, what=FILE)


def computing(file: Path) -> Compute:
    """Return what onnxruntime computes of a graph's inputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def compute(inputs: Inputs) -> torch.Tensor:
        (logits,) = session.run(["logits"], {name: inputs[name].numpy() for name in names})
        return torch.from_numpy(logits)

    return compute


def _convert(whole: Whole, file: Path) -> None:
    program = whole.program()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch.onnx itself will change
            graph = torch.onnx.export(
                program, dynamo=True, input_names=list(whole.stored.inputs), output_names=["logits"], verbose=False
            )
        assert graph is not None
        graph.save(file)
    except Exception as error:  # of whatever has no counterpart; torch wraps it in a report of many pages
        raise ExportError(
            f"torch.onnx cannot write this network ({_cause(error)}): --to torch writes the same without ONNX"
        ) from error
    finally:
        logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """Return the first line of what went wrong first, such as the operator that is missing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
