"""--to transformers: a folder that `from_pretrained` reads."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efface.export.weights import apart, folded_state
from efface.export.whole import ExportError, Whole, tensors_in
from efface.extras import require

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
        loaded = _written(whole.transformers, state, folder)

    @torch.no_grad()
    def compute(inputs: Mapping[str, Tensor]) -> Tensor:
        return tensors_in(loaded(**inputs))[0]

    whole.require_same(compute, what="the folder of --to transformers")


def _written(content: Mapping[str, Any], state: dict[str, Tensor], folder: Path) -> nn.Module:
    """Write a model, and return what is read back."""
    model = _class(content)(_config(content))
    model.load_state_dict(apart(state), strict=True)
    model.save_pretrained(folder)
    loaded: nn.Module = type(model).from_pretrained(folder).eval()
    return loaded


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


def _config(content: Mapping[str, Any]) -> Any:
    import transformers

    return transformers.AutoConfig.for_model(**content)


def _class(content: Mapping[str, Any]) -> Any:
    import transformers

    (name,) = content["architectures"]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise ExportError(f"transformers has no {name}, which the model is: a class of your own goes --to safetensors")
    return kind
