"""Which linear layer of a module is its head: found by a trial on some inputs, with what is wrong where none is."""

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from efface.data.text import some

_TOLERANCE = 1e-4
"""Greatest difference of logits that counts as rounding, as a share of the largest logit."""


class HeadError(ValueError):
    """A module has no linear layer that could be its head, or more than one, or another one than was named."""


@dataclass(frozen=True)
class Head:
    """A linear layer that gives a module's logits."""

    name: str
    logits: Tensor
    """`[n, K]`, as the module returned them."""
    output: int | None
    """Which of the module's outputs they are, if the layer acts on every position of a sequence; None if it acts on
    features `[n, d]`."""


def find_head(module: nn.Module, head: str | None, inputs: Any) -> Head:
    """Return the linear layer that gives a module's logits.

    Args:
        module: in evaluation mode.
        head: its name; None for the only one.
        inputs: some samples, or arguments by name.

    Raises:
        HeadError: there is none, or more than one, or it is not the named one.
        ValueError: the module fails on the inputs, or returns no tensor, or one that is not finite.

    Cost: two forward passes, and one more for each linear layer of K outputs that acts on sequences.
    """
    trial = _Trial.of(module, inputs)
    fit = trial.only() if head is None else trial.named(named_head(module, head))
    if fit.output is None and not _is_last(module, fit, inputs):
        raise HeadError(f"head={fit.name} {trial.fault(fit.name)}")
    return fit


def replace_layer(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in place of another one, under all the names that the module has for that."""
    old = module.get_submodule(name)
    for other in [other for other, value in module.named_modules(remove_duplicate=False) if value is old]:
        module.set_submodule(other, layer)


def named_head(module: nn.Module, head: str) -> str:
    """Return the name of a linear layer as `named_modules` has it; HeadError if there is none of that name."""
    layers = _linear_layers(module)
    try:
        layer = module.get_submodule(head)
    except AttributeError:
        close = difflib.get_close_matches(head, layers, n=3) or list(layers)[-3:]
        raise HeadError(
            f"head={head}: the module has no such layer; its linear layers end with {some(close)}"
        ) from None
    if not isinstance(layer, nn.Linear):
        inside = [name for name in layers if name.startswith(f"{head}.")]
        hint = f": name the layer in it, {some(inside)}" if inside else ", and no linear layer"
        raise HeadError(f"head={head} is a {type(layer).__name__}{hint}")
    return next(name for name, other in layers.items() if other is layer)


def only_head(module: nn.Module) -> str:
    """Return the name of the only linear layer; HeadError if there is none, or more than one."""
    layers = list(_linear_layers(module))
    if len(layers) == 1:
        return layers[0]
    if not layers:
        raise HeadError("head: the module has no nn.Linear, so there is no linear head to work on")
    raise HeadError(f"head: the module has {len(layers)} linear layers, {some(layers)}: name one, or give an example")


def call(module: nn.Module, inputs: Any) -> Any:
    """Call a module with a tensor, or with arguments by name."""
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def outputs_of(value: Any) -> list[Tensor]:
    """Return the tensors that a module's output holds, or its logits alone if it names them."""
    if isinstance(value, Tensor):
        return [value]
    logits = value.get("logits") if isinstance(value, Mapping) else getattr(value, "logits", None)
    if isinstance(logits, Tensor):
        return [logits]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [part for part in parts if isinstance(part, Tensor)]


def close(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are of one shape, and equal but for rounding."""
    return a.shape == b.shape and float((a - b).abs().max()) <= _TOLERANCE * float(b.abs().max())


@dataclass(frozen=True)
class _Trial:
    """What the linear layers of a module did in one forward pass."""

    outputs: list[Tensor]
    calls: dict[str, list[tuple[Tensor, Tensor]]]
    """Inputs and outputs of each linear layer that was called, in the order of the calls."""
    fits: list[Head]
    """The layers that are heads, the last first."""

    @classmethod
    def of(cls, module: nn.Module, inputs: Any) -> "_Trial":
        """Run a module, and see which of its linear layers gives its logits.

        Raises:
            ValueError: it fails, or returns no tensor, or one that is not finite.
        """
        calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

        def note(name: str) -> Any:
            def hook(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], y: Tensor) -> None:
                # A copy: what comes after the layer may change its output in place.
                calls.setdefault(name, []).append((args[0] if args else kwargs["input"], y.clone()))

            return hook

        layers = _linear_layers(module)
        hooks = [layer.register_forward_hook(note(name), with_kwargs=True) for name, layer in layers.items()]
        try:
            outputs = outputs_of(call(module, inputs))
        except Exception as error:  # of whatever the module does
            raise ValueError(
                f"module fails on inputs of shape {_shapes(inputs)} ({type(error).__name__}: {error}): it must take "
                "inputs as the data have them"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if not outputs:
            raise ValueError("module returns no tensor: its forward must return logits [n, K]")
        rows = len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)
        fits = [_fit(module, name, inputs, outputs, *pairs[0]) for name, pairs in calls.items() if len(pairs) == 1]
        heads = [fit for fit in reversed(fits) if fit is not None and len(fit.logits) == rows]
        if not heads and not all(bool(output.isfinite().all()) for output in outputs):
            raise ValueError("module returns NaN or infinite values on the example: check its weights and the example")
        return cls(outputs, calls, heads)

    def named(self, name: str) -> Head:
        """Return the layer of that name; HeadError if it is no head."""
        for fit in self.fits:
            if fit.name == name:
                return fit
        others = f"; that is {self.fits[0].name}" if len(self.fits) == 1 else ""
        raise HeadError(f"head={name} {self.fault(name)}{others}")

    def only(self) -> Head:
        """Return the only head; HeadError if there is none, or more than one."""
        if len(self.fits) == 1:
            return self.fits[0]
        if self.fits:
            raise HeadError(f"head: the module has several, {some([fit.name for fit in self.fits])}: name one of them")
        if not self.calls:
            raise HeadError("head: the module's forward uses no nn.Linear, so there is no linear head to work on")
        last = list(self.calls)[-1]
        raise HeadError(f"head: no nn.Linear gives the module's output. The last one, {last}, {self.fault(last)}")

    def fault(self, name: str) -> str:
        """Say why a layer is no head."""
        if name not in self.calls:
            return "is not used by the module's forward"
        pairs = self.calls[name]
        if len(pairs) > 1:
            return f"is called {len(pairs)} times in one forward pass, but a head must act once"
        x, y = pairs[0]
        shapes = f"it gives {list(y.shape)} from {list(x.shape)}, and the module returns {list(self.outputs[0].shape)}"
        return (
            f"is not what reaches the output ({shapes}): have the module return the logits, without a softmax or scale"
        )


def _fit(module: nn.Module, name: str, inputs: Any, outputs: list[Tensor], x: Tensor, y: Tensor) -> Head | None:
    """Return what makes a layer with this input and output the head; None if it is not.

    One that acts on every position of a sequence is, where the module picks or averages positions afterwards: then it
    may as well do so before.
    """
    layer = cast(nn.Linear, module.get_submodule(name))
    for i, logits in enumerate(outputs):
        columns = _columns(logits, layer)
        if columns.ndim != 2 or columns.shape[1] != layer.out_features:
            continue
        if x.ndim == 2 and close(y, columns):
            return Head(name, columns, None)
        if x.ndim > 2:
            features = _features(module, name, inputs, i)
            if features is not None and close(layer(features), columns):
                return Head(name, columns, i)
    return None


def _columns(logits: Tensor, layer: nn.Linear) -> Tensor:
    """Return logits `[n]` of a layer of one output as `[n, 1]`, others as they are."""
    return logits[:, None] if logits.ndim == 1 and layer.out_features == 1 else logits


def _is_last(module: nn.Module, head: Head, inputs: Any) -> bool:
    """Tell whether a module returns whatever its head does: large numbers too, which a clamp or a tanh would change."""
    layer = cast(nn.Linear, module.get_submodule(head.name))
    draws = torch.Generator().manual_seed(0)
    drawn = 1e3 * torch.randn(head.logits.shape, generator=draws).to(head.logits)
    hook = layer.register_forward_hook(lambda layer, args, y: drawn.clone())
    try:
        outputs = outputs_of(call(module, inputs))
    except Exception:  # of what comes after the layer
        return False
    finally:
        hook.remove()
    return any(close(_columns(output, layer), drawn) for output in outputs)


def _features(module: nn.Module, name: str, inputs: Any, output: int) -> Tensor | None:
    """Return one of a module's outputs `[n, d]` when nothing is done in place of a layer; None if it has none such."""
    rest = copy.deepcopy(module)
    layer = cast(nn.Linear, rest.get_submodule(name))
    replace_layer(rest, name, nn.Identity())
    try:
        features = outputs_of(call(rest, inputs))[output]
    except Exception:  # of what comes after the layer, to which features are no logits
        return None
    return features if features.shape[1:] == (layer.in_features,) else None


def _shapes(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {list(x.shape)}" for name, x in inputs.items())
    return str(list(inputs.shape))


def _linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and name}
