"""Read features, or logits, of a whole split."""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from efface.data.base import Split
from efface.devices import Precision, autocast

_BATCH_VALUES, _BATCH_MIN, _BATCH_MAX = 3 * 2**20, 16, 2048
"""How many numbers a batch of inputs has, and its least and greatest number of samples. At 64 px that is 256 images:
twice as many take twice the time each, since they no longer fit the processor's cache."""


@torch.no_grad()
def read_out(
    module: nn.Module,
    split: Split,
    *,
    rows: Tensor | None = None,
    a: Tensor | None = None,
    device: str,
    precision: Precision = "float32",
    progress: str | None = None,
) -> Tensor:
    """Apply a module to samples of a split in batches: float32 `[len(rows), ...]` on the CPU, `[0, ...]` of no rows.

    Args:
        module: a model for its logits, or its backbone for its features; in evaluation mode.
        split: where the samples come from.
        rows: which of them; all if None.
        a: attributes `[len(rows)]` to show the samples under, instead of their own.
        device: where the module is.
        precision: of the products; see `efface.devices`.
        progress: a name for the progress bar; no bar if None.
    """
    rows = torch.arange(len(split)) if rows is None else rows
    if len(rows) == 0:  # an empty batch has the width of any other
        empty: Tensor = module(split.inputs(rows, device=device))
        return empty.float().cpu()
    size = min(max(_BATCH_VALUES // split.inputs(rows[:1]).numel(), _BATCH_MIN), _BATCH_MAX)
    out: Tensor | None = None
    with (
        autocast(precision, module, device),
        tqdm(total=len(rows), desc=progress, unit="sample", disable=None if progress else True, leave=False) as bar,
    ):
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            batch = module(split.inputs(rows[part], a=None if a is None else a[part], device=device)).float().cpu()
            if out is None:
                out = batch.new_empty(len(rows), *batch.shape[1:])
            out[part] = batch
            bar.update(len(batch))
    assert out is not None
    return out
