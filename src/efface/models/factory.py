"""Functions by name: `package.module:function`, imported as `python -m` would from the current folder."""

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import nn

from efface.data.text import some
from efface.files import file_digest
from efface.models.base import lacks_weights


class FactoryError(ValueError):
    """A factory cannot be imported, is no function, or makes no network."""


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return what a factory makes of its arguments.

    Raises:
        FactoryError: it is not there, cannot be called so, or returns something else than an `nn.Module`.
    """
    factory = find(name)
    try:
        module = factory(**arguments)
    except (Exception, SystemExit) as error:  # of whatever it does
        raise FactoryError(
            f"factory: {name} failed ({type(error).__name__}: {error}); what it is called with is set by "
            "model.arguments={name: value}"
        ) from error
    if not isinstance(module, nn.Module):
        raise FactoryError(f"factory: {name} returns a {type(module).__name__}, but must return a torch.nn.Module")
    if lacks_weights(module):
        raise FactoryError(
            f"factory: {name} returns layers that have no weights yet (nn.LazyLinear, or the meta device): have it "
            "call the module once on an example, or name the widths"
        )
    return module


def find(name: str) -> Callable[..., Any]:
    """Return the factory of that name.

    Raises:
        FactoryError: there is none.
    """
    module_name, _, path = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise FactoryError(f"factory is {name!r}, but must be package.module:function")
    module = _module(module_name)
    value: Any = module
    for part in path.split("."):
        if not hasattr(value, part):
            close = difflib.get_close_matches(part, dir(value), n=3)
            hint = f": did you mean {some(close)}?" if close else ""
            raise FactoryError(f"factory: {module_name} ({module.__file__}) has no {path}{hint}")
        value = getattr(value, part)
    if not callable(value):
        raise FactoryError(f"factory: {name} is a {type(value).__name__}, which cannot be called")
    return cast(Callable[..., Any], value)


def source_digest(name: str) -> str:
    """Return a digest of the file that holds a factory's code, 64 hex digits; empty if it has none.

    It is that of the code which this process has imported, whatever became of the file since. What the file imports
    does not count.

    Raises:
        FactoryError: there is no such factory.
    """
    factory = find(name)
    try:
        file = inspect.getsourcefile(inspect.unwrap(factory))
    except TypeError:  # an object that can be called, and has no code of its own
        file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return _digest(file) if file is not None else ""


@functools.cache
def _digest(file: str) -> str:
    return file_digest(Path(file))


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise FactoryError(
                f"factory: there is no module {error.name}, neither in the current folder {here} nor installed"
            ) from error
        raise FactoryError(f"factory: {name} cannot be imported, it needs {error.name}: install it") from error
    except (Exception, SystemExit) as error:  # of whatever the module does, which may be a script
        raise FactoryError(f"factory: {name} cannot be imported ({type(error).__name__}: {error})") from error
