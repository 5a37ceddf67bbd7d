"""Where a model runs, and in which precision."""

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["float32", "bfloat16", "auto"]


def resolve_device(device: str) -> str:
    """`auto` is CUDA where it is, else the CPU.

    Raises:
        ValueError: a CUDA device is asked for that is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but no CUDA device is available: use device=cpu or device=auto")
    return device


def require_precision(precision: str) -> None:
    """ValueError if there is no such precision."""
    if precision not in ("float32", "bfloat16", "auto"):
        raise ValueError(f"precision is {precision!r}, but must be 'float32', 'bfloat16' or 'auto'")


def resolve_precision(precision: Precision, module: nn.Module, device: str) -> torch.dtype:
    """`auto` is bfloat16 for networks with convolutions, on devices with instructions for it, else float32.

    For such networks it was measured twice as fast and as accurate (benchmarks/README.md, celeba). Small linear layers
    gain nothing from it.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if not any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        return torch.float32
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32


def autocast(precision: Precision, module: nn.Module, device: str) -> AbstractContextManager[Any]:
    """A context in which `module` computes in `precision`; its parameters stay float32."""
    dtype = resolve_precision(precision, module, device)
    kind = device.split(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
