"""A whole debiased model: what it computes, from inputs to logits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from efface.data.text import some
from efface.debiased import Debiased
from efface.export.network import Network, debiased_network
from efface.export.stored import ATTRIBUTE, Compute, Stored, like, reference, size
from efface.models.base import Model
from efface.models.wrapped import Wrapped
from efface.passport import Passport
from efface.record import RECORD, Record

_ONE = "x"
"""Name of the only input of a network that is called with one tensor."""
ROWS = 8
"""How many rows are stored."""


class ExportError(ValueError):
    """A model cannot be written in a format, or the copy computes something else. Nothing is left behind."""


class Logits(nn.Module):
    """A network as a function from tensors, one after the other, to its logits.

    Args:
        network: called as the one that came in.
        names: of its inputs; None where it takes one tensor.
        output: which of its outputs are the logits.
    """

    def __init__(self, network: Network, names: tuple[str, ...] | None, output: int) -> None:
        super().__init__()
        self.module = network.module
        self._attribute = network.attribute if network.uses_attribute else None
        self._names, self.output = names, output

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return all tensors that the network returns."""
        if self._attribute is not None:
            *inputs, self._attribute.value = inputs
        if self._names is None:
            return tensors_in(self.module(*inputs))
        return tensors_in(self.module(**dict(zip(self._names, inputs, strict=True))))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.outputs(inputs)[self.output]


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What the formats write."""

    stored: Stored
    """Some rows, and the logits that every copy has to give."""
    program: Callable[[], ExportedProgram]
    """Traces the network, for batches of any size."""
    state: Mapping[str, Tensor] | None
    """Tensors of the network by the names that it came with; None where the map of features stays in front of the
    head, so that it has another architecture."""
    compute: Callable[[Mapping[str, Tensor]], Compute]
    """Returns what the network computes with other tensors by these names."""
    transformers: Mapping[str, Any] | None = None
    """Configuration of a model of transformers."""
    estimator: Callable[[], Any] | None = None
    """Makes a classifier of scikit-learn with the new weights."""
    rows: Any = None
    """Some rows as that classifier takes them."""
    passport: Passport
    """Of its run."""
    run_files: Mapping[str, bytes]
    """The record of its run, and the files that this names."""

    def require_same(self, compute: Compute, *, what: str) -> None:
        """Check that a copy gives the same logits, in one batch and for the first row alone.

        Raises:
            ExportError: it does not.
        """
        stored = self.stored
        for n in (len(stored.logits), 1):
            logits, expected = compute({name: x[:n] for name, x in stored.inputs.items()}), stored.logits[:n]
            if logits.shape != expected.shape or not float((logits - expected).abs().max()) <= stored.bound:
                difference = float((logits - expected).abs().max()) if logits.shape == expected.shape else None
                how = f"shape {list(logits.shape)}" if difference is None else f"differences up to {difference:.3g}"
                raise ExportError(
                    f"{what} gives other logits than the debiased model ({how}, of {n} stored inputs): nothing is "
                    "written. Please report it, with the model"
                )


def run_files(directory: Path, record: Record) -> dict[str, bytes]:
    """Read the record of a run, and the files that this names."""
    return {name: (directory / name).read_bytes() for name in (RECORD, *record.artifacts)}


def whole_of(
    model: Model, debiased: Debiased, x: Tensor, a: Tensor, *, n_attributes: int, **facts: Any
) -> tuple[Whole, Network]:
    """Make the whole of a base model and what a method made of it, and check that it computes the same.

    Args:
        model: the base model of the run.
        debiased: what the method made of it.
        x: some rows of inputs, as a split hands them out.
        a: their protected attributes.
        n_attributes: how many values that has.
        facts: the other fields of `Whole`.

    Raises:
        ExportError: the network with the debiased last layer computes something else.
    """
    network = debiased_network(model, debiased, n_attributes)
    with torch.no_grad():
        features = model.cpu().cut(debiased.cut)[0](x)
    expected, tolerance = reference(debiased, features, a)
    inputs = network_inputs(model, x)
    names = None if list(inputs) == [_ONE] else tuple(inputs)
    if network.uses_attribute:
        inputs[ATTRIBUTE] = a
    function = Logits(network, names, 0).eval()
    with torch.no_grad():
        function.output = _which(function, tuple(inputs.values()), expected, tolerance * size(expected))
        logits = function(*inputs.values())
    whole = Whole(
        stored=Stored(inputs=inputs, logits=logits, features=features, tolerance=tolerance),
        program=lambda: _traced(function, inputs),
        state={name: t.detach() for name, t in network.module.state_dict().items()} if network.folded else None,
        compute=lambda state: _computing(function, state),
        **facts,
    )
    return whole, network


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors that a network returned, or its logits alone where it names them."""
    if isinstance(value, Tensor):
        return [value]
    logits = value.get("logits") if isinstance(value, Mapping) else getattr(value, "logits", None)
    if isinstance(logits, Tensor):
        return [logits]
    parts = value.values() if isinstance(value, Mapping) else value
    return [part for part in parts if isinstance(part, Tensor)]


def network_inputs(model: Model, x: Tensor) -> dict[str, Tensor]:
    """Return what the network that came in is called with, by name, for inputs as a split hands them out."""
    named = model.backbone.prepare(x) if isinstance(model.backbone, Wrapped) else x
    return {_ONE: named} if isinstance(named, Tensor) else dict(named)


def _which(function: Logits, inputs: tuple[Tensor, ...], expected: Tensor, bound: float) -> int:
    """Return which output of a network has these logits `[n, K]`, or the difference of two."""
    for i, output in enumerate(function.outputs(inputs)):
        logits = like(expected, output)
        if logits is not None and (output - logits).abs().max() <= bound:
            return i
    raise ExportError(
        "the network with the debiased last layer gives other logits than the method's own: nothing is written. Please "
        "report it, with the model"
    )


def _traced(function: Logits, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Trace a network for batches of any size, and sequences of any length where its inputs are token ids."""
    batch = Dim("batch", min=1)
    free = {name: {0: batch} | ({1: Dim.AUTO} if _is_sequence(x) else {}) for name, x in inputs.items()}
    try:
        return export(function, tuple(inputs.values()), dynamic_shapes={"inputs": tuple(free.values())}, strict=False)
    except Exception as error:  # of whatever the network does
        raise ExportError(
            f"the network cannot be traced by torch.export ({first_line(error)}): its forward must not "
            "depend on the values of its inputs; --to safetensors writes its weights without a trace"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message, which may go on for pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _is_sequence(x: Tensor) -> bool:
    return x.ndim == 2 and not x.is_floating_point()


def _computing(function: Logits, state: Mapping[str, Tensor]) -> Compute:
    """Return what a network computes with other tensors in place of all those of its state dict."""
    names, others = function.state_dict().keys(), {f"module.{name}": t for name, t in state.items()}
    if names != others.keys():
        raise ExportError(f"the tensors are not those of the network: {some(sorted(names ^ others.keys()))}")

    @torch.no_grad()
    def compute(inputs: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = torch.func.functional_call(function, others, tuple(inputs.values()))
        return logits

    return compute
