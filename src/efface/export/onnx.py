"""--to onnx: a graph of ONNX in the default opset of torch, checked with onnxruntime."""

import logging
import warnings
from pathlib import Path

import torch

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
    import onnxruntime

    _convert(whole, folder / FILE)
    try:
        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    except Exception as error:  # of whatever onnxruntime lacks; its classes are not public
        raise ExportError(f"onnxruntime cannot run {FILE} ({first_line(error)}): --to torch needs no ONNX") from error

    def compute(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        (logits,) = session.run(["logits"], {name: x.numpy() for name, x in inputs.items()})
        return torch.from_numpy(logits)

    whole.require_same(compute, what=FILE)  # type: ignore[arg-type]


def _convert(whole: Whole, file: Path) -> None:
    program = whole.program()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch.onnx itself will change
            graph = torch.onnx.export(
                program, dynamo=True, input_names=list(whole.inputs), output_names=["logits"], verbose=False
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
