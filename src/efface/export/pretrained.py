"""--to transformers: a folder that `from_pretrained` reads."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efface.export.stored import Compute, Inputs
from efface.export.weights import apart, folded_state
from efface.export.whole import ExportError, Whole, tensors_in
from efface.extras import require
from efface.hub import model_class

CONFIG = "config.json"


def configuration(module: nn.Module) -> dict[str, Any] | None:
    """Return the configuration of a model of transformers; None if it is of another kind."""
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_json_string") or not hasattr(module, "save_pretrained"):
        return None
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return content | {"architectures": [type(module).__name__]}


def read_configuration(file: Path) -> dict[str, Any] | None:
    """Read a configuration that was saved; None if there is none."""
    content: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return content


def write(whole: Whole, folder: Path) -> None:
    """Write configuration and weights, and check what `from_pretrained` makes of them.

    Raises:
        ExportError: the model is not one of transformers, or its last layer is no longer linear, or the logits are
            others.
        ModuleNotFoundError: the extra `scrub` is not installed.
    """
    require("transformers", extra="scrub", what="--to transformers")
    if whole.transformers is None:
        raise ExportError("the model is not one of transformers: take --to safetensors, torch or onnx")
    state = folded_state(whole)
    with _without_bars():
        _write_model(whole.transformers, state, folder)
        compute = computing(folder / CONFIG)
    whole.require_same(compute, what="the folder of --to transformers")


def computing(config: Path) -> Compute:
    """Return what the model computes whose configuration this is. Only weights in safetensors files are read.

    Raises:
        ValueError: `transformers` has no such model.
    """
    kind = model_class(*json.loads(config.read_text())["architectures"])
    model = kind.from_pretrained(config.parent, local_files_only=True, use_safetensors=True).eval()

    @torch.no_grad()
    def compute(inputs: Inputs) -> Tensor:
        return tensors_in(model(**inputs))[0]

    return compute


def _write_model(content: Mapping[str, Any], state: dict[str, Tensor], folder: Path) -> None:
    import transformers

    try:
        kind = model_class(*content["architectures"])
    except ValueError as error:
        raise ExportError(str(error)) from error
    model = kind(transformers.AutoConfig.for_model(**content))
    model.load_state_dict(apart(state), strict=True)
    model.save_pretrained(folder)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Within this context transformers shows no progress bars."""
    from transformers.utils import logging as bars

    logging: Any = bars
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
