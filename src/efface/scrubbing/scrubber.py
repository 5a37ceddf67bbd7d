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
from efface.erasure.leace import LeaceEraser
from efface.scrubbing.families import base_model, submodule
from efface.scrubbing.folding import fold

_KIND = "ConceptScrubber"
_KINDS = {kind.__name__: kind for kind in (AffineEraser, LeaceEraser)}

Hook = Callable[[str, Tensor], Tensor | None]
"""Called with a module's path and its output (or input); what it returns takes that place, None leaves it."""


@dataclass
class ConceptScrubber:
    """Erasers by the path of the module at which they act, from the base model (`layers.0.input_layernorm`).

    Args:
        pre_hook: erase from what the modules are given, and not from what they return.
        erasers: by path.
    """

    pre_hook: bool = False
    erasers: dict[str, AffineEraser] = field(default_factory=dict)

    @contextmanager
    def scrub(self, model: nn.Module) -> Iterator[Self]:
        """Within this context the model erases; afterwards, also after an exception, it has no hooks left.

        Nothing is ever cached that depends on later tokens, so generation with a cache is that without one. Erasers
        follow the states to whatever device they are on, and work in at least float32.

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
        """Within this context `hook_fn(path, x)` is called at every module that has an eraser.

        Raises:
            ValueError: a path does not exist.
        """
        with hooked(model, dict.fromkeys(self.erasers, hook_fn), pre_hook=self.pre_hook):
            yield self

    def to(self, *args: Any, **kwargs: Any) -> "ConceptScrubber":
        """The same with all erasers on another device or in another dtype; arguments as for `Tensor.to`."""
        return ConceptScrubber(self.pre_hook, {path: e.to(*args, **kwargs) for path, e in self.erasers.items()})

    def fold(self, model: nn.Module, **options: Any) -> None:
        """Make the erasers part of the model's weights; see `efface.scrubbing.fold`."""
        fold(self, model, **options)

    def save(self, path: str | Path) -> None:
        """Write all erasers to one safetensors file.

        Raises:
            TypeError: an eraser is no affine map in the factors that `AffineEraser` holds.
        """
        for module, eraser in self.erasers.items():
            if type(eraser).__name__ not in _KINDS:
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
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        tensors, facts = tensorfiles.read(path, kind=_KIND, device=device)
        parts: dict[str, dict[str, Tensor]] = {module: {} for module in facts["erasers"]}
        for key, tensor in tensors.items():
            module, _, name = key.rpartition("/")
            parts[module][name] = tensor
        return cls(facts["pre_hook"], {module: _KINDS[facts["erasers"][module]](**parts[module]) for module in parts})


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Hook], *, pre_hook: bool = False) -> Iterator[None]:
    """Within this context each hook is called at the module of its path from the base model; see `Hook`.

    Raises:
        ValueError: a path does not exist. No hook is then left on the model.
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
        """The first argument, by position or by name."""
        if args:
            new = hook(path, args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        name = next(iter(kwargs))
        new = hook(path, kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    return act


def _behind(path: str, hook: Hook) -> Callable[..., Any]:
    def act(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The output, or the first of several."""
        if isinstance(output, tuple):
            new = hook(path, output[0])
            return None if new is None else (new, *output[1:])
        return hook(path, output)

    return act
