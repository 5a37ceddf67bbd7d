"""Features, or logits, of a whole split."""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from efface.data.base import Split
from efface.devices import Precision, autocast

_BATCH_VALUES, _BATCH_MAX, _BATCH_MIN = 3 * 2**20, 2048, 16
"""Numbers in a batch of inputs, and bounds in samples. At 64 px 256 images: twice as many take twice the time each,
for want of cache."""


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
    """`module` applied to `rows` of a split (all if None) in batches: float32 `[len(rows), ...]` on the CPU.

    Args:
        module: a model for its logits, or its backbone for its features; in evaluation mode.
        a: attributes `[len(rows)]` to show the samples under, instead of their own.
        precision: that of the products; see `efface.devices`.
        progress: a name for the progress bar; no bar if None.
    """
    rows = torch.arange(len(split)) if rows is None else rows
    if len(rows) == 0:
        return torch.empty(0)
    size = min(max(_BATCH_VALUES // split.inputs(rows[:1]).numel(), _BATCH_MIN), _BATCH_MAX)
    out: Tensor | None = None
    with (
        autocast(precision, module, device),
        tqdm(total=len(rows), desc=progress, unit="sample", disable=None if progress else True, leave=False) as bar,
    ):
        for at in range(0, len(rows), size):
            part = slice(at, at + size)
            batch = module(split.inputs(rows[part], a=None if a is None else a[part], device=device)).float().cpu()
            if out is None:
                out = batch.new_empty(len(rows), *batch.shape[1:])
            out[part] = batch
            bar.update(len(batch))
    assert out is not None
    return out
