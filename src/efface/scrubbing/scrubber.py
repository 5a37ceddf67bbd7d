"""Erasers at the modules of a model, put in place by hooks and taken away again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from efface import tensorfiles
from efface.erasure.affine import AffineEraser
from efface.erasure.inlp import InlpEraser
from efface.erasure.leace import LeaceEraser
from efface.erasure.projections import MeanProjectionEraser, PcaEraser, RandomProjectionEraser
from efface.erasure.rlace import RlaceEraser
from efface.erasure.splince import SplinceEraser
from efface.scrubbing.families import base_model, submodule

_KIND = "ConceptScrubber"
_KINDS: dict[str, type[AffineEraser]] = {
    kind.__name__: kind
    for kind in (
        AffineEraser,
        InlpEraser,
        LeaceEraser,
        MeanProjectionEraser,
        PcaEraser,
        RandomProjectionEraser,
        RlaceEraser,
        SplinceEraser,
    )
}
"""Erasers that a file may name: nothing is imported by the name in a file."""

Hook = Callable[[str, Tensor], Tensor | None]
"""Called with a module's path and its output (or input); its result replaces that tensor, None leaves it unchanged."""


@dataclass
class ConceptScrubber:
    """Erasers by the path of the module at which they act, from the base model (`layers.0.input_layernorm`).

    Args:
        pre_hook: erase from the inputs of the modules, and not from their outputs.
        erasers: the erasers by path.
    """

    pre_hook: bool = False
    erasers: dict[str, AffineEraser] = field(default_factory=dict)

    @contextmanager
    def scrub(self, model: nn.Module) -> Iterator[Self]:
        """Erase within this context; afterwards, also after an exception, the model has no hooks.

        Erasers do not depend on later tokens, so generation with a cache gives the same as without one. They follow the
        states to their device, and compute in at least float32.

        Raises:
            ValueError: a path does not exist, or a width does not fit.
        """
        placed: dict[tuple[str, torch.device], AffineEraser] = {}

        def erase(path: str, x: Tensor) -> Tensor:
            key = path, x.device
            if key not in placed:
                placed[key] = self.erasers[path].to(x.device)
            return placed[key](x)

        with self.apply_hook(model, erase):
            yield self

    @contextmanager
    def apply_hook(self, model: nn.Module, hook_fn: Hook) -> Iterator[Self]:
        """Call `hook_fn(path, x)` within this context at every module that has an eraser.

        Raises:
            ValueError: a path does not exist.
        """
        with hooked(model, dict.fromkeys(self.erasers, hook_fn), pre_hook=self.pre_hook):
            yield self

    def to(self, *args: Any, **kwargs: Any) -> "ConceptScrubber":
        """Copy all erasers to another device or dtype; arguments as for `Tensor.to`."""
        return ConceptScrubber(self.pre_hook, {path: e.to(*args, **kwargs) for path, e in self.erasers.items()})

    def save(self, path: str | Path) -> None:
        """Write the maps of all erasers to one safetensors file, without what some know beside, as R-LACE its solution.

        Raises:
            TypeError: an eraser is none of those that efface exports, or needs the concept of each state.
        """
        for module, eraser in self.erasers.items():
            if _KINDS.get(type(eraser).__name__) is not type(eraser):
                known = ", ".join(_KINDS)
                raise TypeError(f"the eraser at {module} is a {type(eraser).__name__}: only {known} are saved")
        tensors = {
            f"{module}/{name}": tensor
            for module, eraser in self.erasers.items()
            for name, tensor in eraser.tensors().items()
        }
        kinds = {module: type(eraser).__name__ for module, eraser in self.erasers.items()}
        tensorfiles.write(path, tensors, kind=_KIND, facts={"pre_hook": self.pre_hook, "erasers": kinds})

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read a file that `save` wrote.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        tensors, facts = tensorfiles.read(path, kind=_KIND, device=device)
        try:
            pre_hook, kinds = facts["pre_hook"], facts["erasers"]
            if not isinstance(pre_hook, bool):
                raise TypeError(f"pre_hook is {pre_hook!r}")
            parts: dict[str, dict[str, Tensor]] = {module: {} for module in kinds}
            for key, tensor in tensors.items():
                module, _, name = key.rpartition("/")
                parts[module][name] = tensor
            classes = {module: _KINDS[kinds[module]] for module in parts}
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} lacks a part of a saved {_KIND} ({error}): fit and save it again") from error
        return cls(pre_hook, {module: classes[module].rebuild(parts[module], f"{path}: {module}") for module in parts})


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Hook], *, pre_hook: bool = False) -> Iterator[None]:
    """Call each hook within this context at the module of its path from the base model; see `Hook`.

    Raises:
        ValueError: a path does not exist. The model then has no hooks.
    """
    base = base_model(model)
    with ExitStack() as handles:
        for path, hook in hooks.items():
            module = submodule(base, path)
            if pre_hook:
                handle = module.register_forward_pre_hook(_before(path, hook), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_behind(path, hook))
            handles.callback(handle.remove)
        yield


def _before(path: str, hook: Hook) -> Callable[..., Any]:
    def act(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the hook on the first argument, by position or by name."""
        if args:
            new = hook(path, args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        name = next(iter(kwargs))
        new = hook(path, kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    return act


def _behind(path: str, hook: Hook) -> Callable[..., Any]:
    def act(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Call the hook on the output, or on the first of several."""
        if isinstance(output, tuple):
            new = hook(path, output[0])
            return None if new is None else (new, *output[1:])
        return hook(path, output)

    return act
