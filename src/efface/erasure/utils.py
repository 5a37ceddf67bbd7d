"""A run-time check that type checkers understand."""

from typing import TypeVar

T = TypeVar("T")


def assert_type(typ: type[T], obj: object) -> T:
    """Return `obj` if it is a `typ`.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(obj, typ):
        raise TypeError(f"Expected {typ.__name__}, got {type(obj).__name__}")
    return obj
