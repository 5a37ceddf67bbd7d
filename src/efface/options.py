"""Options of a configuration, held against the types of what they configure."""

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any


def check(target: Callable[..., Any], options: Mapping[str, Any], *, node: str) -> None:
    """Check options against the annotations of a dataclass or function.

    Strictly: a text is no number and 1 is no truth value; but a list will do for a tuple and an integer for a real
    number, as yaml has it. Options that `target` does not name, that have no annotation, or that are parts of their own
    (with `_target_`) are left to it.

    Raises:
        ValueError: an option is of another type; the message names it, its value and what it must be.
    """
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    if inspect.isclass(target):
        hints |= typing.get_type_hints(target)
    for key, value in options.items():
        if key in hints and not (isinstance(value, Mapping) and "_target_" in value):
            check_type(value, hints[key], name=f"{node}.{key}")


def check_type(value: Any, hint: Any, *, name: str) -> None:
    """`check` for one option."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

    try:
        adapter = TypeAdapter(hint)
        text = json.dumps(value)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError):
        return  # a type of its own, which checks what it is given
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        shown = "null" if value is None else repr(value)
        raise ValueError(f"{name} is {shown}, but must be {_words(hint)}") from error


def _words(hint: Any) -> str:
    """A type as a person would write the option."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, arguments))
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin in (tuple, list) or getattr(origin, "__name__", "") == "Sequence":
        plural = {int: "integers", float: "numbers", str: "texts"}
        return f"a list of {plural.get(arguments[0], _words(arguments[0]))}" if arguments else "a list"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
