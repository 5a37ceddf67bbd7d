"""Options: declared once as fields of a dataclass, with their types and ranges, and checked once, when it is made.

    @options
    class Leace(StreamedErasure):
        rank: Annotated[int, Ge(1)] | None = None
        solver: Literal["auto", "game"] = "auto"

A Python caller and the command line get the same message. The annotation says what one option may be; `__post_init__`
is for relations between options. Functions, such as those that build models, check their arguments with `@checked`.
"""

import dataclasses
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

try:
    from annotated_types import Ge, Gt, Le, Len, Lt
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "data sets, models and methods need annotated-types and pydantic: pip install 'efface[grid]'"
    ) from error

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

__all__ = ["Ge", "Gt", "Le", "Len", "Lt", "OptionError", "check", "check_type", "checked", "options"]


class OptionError(ValueError):
    """An option is of another type, or out of its range; the message begins with its name."""


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def options(cls: type[T]) -> type[T]:
    """Make a class a frozen keyword-only dataclass that checks its fields against their annotations when it is made.

    A class may say with `elsewhere: ClassVar[dict[str, str]]` where an option is that it does not have.

    Raises:
        OptionError: when an object is made of a value that its annotation does not admit.
        TypeError: when an object is made with an option that the class does not have; the message names those it has.
    """
    relations = getattr(cls, "__post_init__", None)  # a base class's too

    def post_init(self: Any) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]
            check_type(getattr(self, name), hint, name=name)
        if relations is not None:
            relations(self)

    cls.__post_init__ = post_init  # type: ignore[attr-defined]
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    make = cls.__init__

    @functools.wraps(make)
    def init(self: Any, *args: Any, **values: Any) -> None:
        for name in values:
            if name not in _hints(typing.cast(type, cls)):
                raise TypeError(_unknown(cls, name))
        make(self, *args, **values)

    cls.__init__ = init  # type: ignore[method-assign]
    return cls


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of keyword-only options check them against its annotations when it is called.

    Raises:
        OptionError: when it is called with a value that its annotation does not admit.
    """

    @functools.wraps(function)
    def call(*args: P.args, **values: P.kwargs) -> R:
        hints = typing.get_type_hints(function, include_extras=True)
        for name in values.keys() & hints.keys():
            check_type(values[name], hints[name], name=name)
        return function(*args, **values)

    return call


def check(target: Callable[..., Any], values: Mapping[str, Any], *, node: str) -> None:
    """Check options against the annotations of a function, or of a class that does not check its own.

    Options that `target` does not name, that have no annotation, or that are parts of their own (with `_target_`) are
    left to it.

    Raises:
        OptionError: an option is of another type; the message names it, its value and what it must be.
    """
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    if inspect.isclass(target):
        hints |= typing.get_type_hints(target, include_extras=True)
    for key, value in values.items():
        if key in hints and not (isinstance(value, Mapping) and "_target_" in value):
            check_type(value, hints[key], name=f"{node}.{key}")


def check_type(value: Any, hint: Any, *, name: str) -> None:
    """Check one option.

    A string is not accepted as a number, nor 1 as a boolean, and no number may be infinite or NaN. But a list passes
    for a tuple, and an integer for a real number, since yaml writes them so. A value that JSON cannot express is not
    checked.

    Raises:
        OptionError: the message names the option, its value and what it must be.
    """
    from pydantic import ValidationError

    adapter = _adapter(hint)
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return
    if adapter is None:
        return
    quoted = "null" if value is None else repr(value)
    if not _finite(value):
        raise OptionError(f"{name} is {quoted}, but must be finite")
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise OptionError(f"{name} is {quoted}, but must be {_words(hint)}{_as_list(value, adapter, name)}") from error


def _as_list(value: Any, adapter: Any, name: str) -> str:
    """Say how one value is written where a list is wanted; nothing where a list of it would not do either."""
    from pydantic import ValidationError

    if not isinstance(value, str):
        return ""
    try:
        adapter.validate_json(json.dumps([value]), strict=True)
    except ValidationError:
        return ""
    return f": write '{name}=[{value}]'"


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _unknown(cls: type, name: str) -> str:
    """Say that a class has no such option, and where it is."""
    elsewhere = getattr(cls, "elsewhere", {}).get(name)
    return f"{cls.__name__} has no option {name}: {elsewhere or 'its options are ' + ', '.join(_hints(cls))}"


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

    try:
        return TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError):
        return None


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _words(hint: Any) -> str:
    """Say a type as a person would write the option."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return "null"
    if origin is typing.Annotated:
        return f"{_words(arguments[0])}{_ranges(arguments[1:])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, arguments))
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin in (tuple, list) or getattr(origin, "__name__", "") == "Sequence":
        return f"a list of {_plural(arguments[0])}" if arguments else "a list"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _plural(hint: Any) -> str:
    plural = {int: "integers", float: "numbers", str: "strings"}
    if typing.get_origin(hint) is typing.Annotated:
        inner, *ranges = typing.get_args(hint)
        return f"{_plural(inner)}{_ranges(ranges)}"
    return plural.get(hint, _words(hint))


def _ranges(constraints: Iterable[Any]) -> str:
    """Say ranges, such as ` > 0 and <= 1` or ` with one entry or more`, after the noun."""
    signs = {Gt: (">", "gt"), Ge: (">=", "ge"), Lt: ("<", "lt"), Le: ("<=", "le")}
    words, bounds = "", []
    for constraint in constraints:
        if isinstance(constraint, Len):
            words += (
                " with one entry or more" if constraint.min_length == 1 else f" with {constraint.min_length} entries"
            )
        elif type(constraint) in signs:
            sign, attribute = signs[type(constraint)]
            bounds.append(f"{sign} {getattr(constraint, attribute):g}")
    return (f" {' and '.join(bounds)}" if bounds else "") + words
