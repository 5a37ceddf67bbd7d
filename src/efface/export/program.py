"""--to torch: a program of torch.export, which needs none of the network's own code."""

from pathlib import Path

import torch
from torch.export import load, save

from efface.export.whole import Whole

FILE = "model.pt2"


def write(whole: Whole, folder: Path) -> None:
    """Write the program, and check what it computes once it is read.

    Raises:
        ExportError: the network cannot be traced, or the logits are others.
    """
    save(whole.program(), folder / FILE)
    loaded = load(folder / FILE).module()
    with torch.no_grad():
        whole.require_same(lambda inputs: loaded(*inputs.values()), what=FILE)
