"""--to torch: a program of torch.export, which needs none of the network's own code."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram, save

from efface.export.stored import Compute, Inputs
from efface.export.whole import Whole

FILE = "model.pt2"
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable of torch, read by each `torch.load`."""


def write(whole: Whole, folder: Path) -> None:
    """Write the program, and check what it computes once it is read.

    Raises:
        ExportError: the network cannot be traced, or the logits are others.
    """
    save(whole.program(), folder / FILE)
    whole.require_same(computing(folder / FILE), what=FILE)


def load(file: Path) -> ExportedProgram:
    """Read a program, without pickle, to which `torch.export.load` falls back on weights that are something else.

    It is a program all the same: torch evaluates expressions that the file holds.

    Raises:
        UnpicklingError: weights are no tensors.
    """
    with _weights_only():
        return torch.export.load(file)


def computing(file: Path) -> Compute:
    """Return what a program computes."""
    module = load(file).module()

    @torch.no_grad()
    def compute(inputs: Inputs) -> Tensor:
        logits: Tensor = module(*inputs.values())
        return logits

    return compute


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Within this context no `torch.load` of this process unpickles anything but tensors."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
