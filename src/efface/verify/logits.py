"""Logits computed again on the inputs that were stored with an export, by each copy of the model beside them."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface import tensorfiles
from efface.debiased import MODEL_FILE, Debiased
from efface.verify.check import Check

INPUTS_FILE, KIND = "inputs.safetensors", "stored inputs"
"""Tensors `input.<name>` in the order of the fact `inputs`, `logits`, and perhaps `features`, what reaches the head."""
ATTRIBUTE = "attribute"
PROGRAM, GRAPH, PRETRAINED = "model.pt2", "model.onnx", "config.json"
"""Files of a program of torch.export, of a graph of ONNX, and beside the weights of a model of transformers."""

Inputs = Mapping[str, Tensor]
Compute = Callable[[Inputs], Tensor]


def check_logits(directory: Path) -> Iterator[Check]:
    """Compare the logits of each copy of a model with the stored ones.

    Raises:
        ValueError: the stored inputs are damaged.
    """
    tensors, facts = tensorfiles.read(directory / INPUTS_FILE, kind=KIND)
    inputs = {name: tensors[f"input.{name}"] for name in facts["inputs"]}
    logits = tensors["logits"]
    bound = facts["tolerance"] * max(1.0, float(logits.abs().max()))
    copies = computations(directory)
    if "features" in tensors and (directory / MODEL_FILE).is_file():
        copies[MODEL_FILE] = lambda inputs: _head(directory, tensors["features"], inputs.get(ATTRIBUTE))
    if not copies:
        yield Check("logits of the stored inputs", None, "no copy can be run without the network's own code")
    for name, compute in copies.items():
        what = f"logits of {name}, on {len(logits)} stored inputs"
        try:
            computed = compute(inputs)
        except ModuleNotFoundError as error:
            yield Check(what, None, f"{error.name} is not installed")
        except Exception as error:  # of whatever a damaged copy does
            yield Check(what, False, f"it cannot be run ({type(error).__name__}: {error})")
        else:
            yield _same(what, computed, logits, bound)


def computations(directory: Path) -> dict[str, Compute]:
    """Return what computes logits from inputs by name, for each copy that needs no code of its own, by its file."""
    known: dict[str, Callable[[Path], Compute]] = {PROGRAM: _program, GRAPH: _graph, PRETRAINED: _pretrained}
    return {
        name: lambda inputs, load=load, name=name: load(directory / name)(inputs)  # type: ignore[misc]
        for name, load in known.items()
        if (directory / name).is_file()
    }


def _program(path: Path) -> Compute:
    from torch.export import load

    module = load(path).module()

    @torch.no_grad()
    def compute(inputs: Inputs) -> Tensor:
        logits: Tensor = module(*inputs.values())
        return logits

    return compute


def _graph(path: Path) -> Compute:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def compute(inputs: Inputs) -> Tensor:
        names = [entry.name for entry in session.get_inputs()]
        arrays = {name: inputs[name].numpy() for name in names}
        return torch.from_numpy(session.run(["logits"], arrays)[0])

    return compute


def _pretrained(path: Path) -> Compute:
    import transformers

    (name,) = json.loads(path.read_text())["architectures"]
    kind = getattr(transformers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise ValueError(f"{path} names {name!r}, which is no model of transformers")
    model: Any = kind.from_pretrained(path.parent, local_files_only=True, use_safetensors=True)
    model.eval()

    @torch.no_grad()
    def compute(inputs: Inputs) -> Tensor:
        logits: Tensor = model(**inputs).logits
        return logits

    return compute


@torch.no_grad()
def _head(directory: Path, features: Tensor, attribute: Tensor | None) -> Tensor:
    return Debiased.load(directory / MODEL_FILE)(features, attribute)


def _same(what: str, computed: Tensor, logits: Tensor, bound: float) -> Check:
    if computed.shape != logits.shape:
        return Check(what, False, f"shape {list(computed.shape)}, but must be {list(logits.shape)}")
    difference = float((computed - logits).abs().max())
    return Check(what, difference <= bound, "" if difference <= bound else f"they differ by up to {difference:.3g}")
