import inspect
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, ClassVar, Literal

import pytest
import torch

from efface.options import Ge, Gt, Len, Lt, OptionError, check, check_type, checked, options


@dataclass(frozen=True, kw_only=True)
class Thing:
    rank: int | None = None
    l2: float = 0.1
    on: bool = True
    solver: Literal["auto", "game"] = "auto"
    hidden: tuple[int, ...] = ()
    shrinkage: str | bool = "correlation"
    tensor: torch.Tensor | None = None


def function(*, width: int, name: str = "x", anything: Any = None) -> None: ...


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 3, "l2": 1, "on": False, "solver": "game", "hidden": [1, 2], "shrinkage": True},
        {"rank": None, "shrinkage": "none", "hidden": []},
        {"_target_": "x", "unknown": "left to the thing itself", "tensor": "also"},
        {"rank": {"_target_": "a part of its own"}},
    ],
)
def test_options_that_fit_pass(options: dict) -> None:
    check(Thing, options, node="method")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": "all"}, "method.rank is 'all', but must be an integer or null"),
        ({"rank": 2.5}, "method.rank is 2.5, but must be an integer or null"),
        ({"rank": True}, "method.rank is True, but must be an integer or null"),
        ({"l2": "1e-3x"}, "method.l2 is '1e-3x', but must be a number"),
        ({"l2": None}, "method.l2 is null, but must be a number"),
        ({"on": 1}, "method.on is 1, but must be true or false"),
        ({"solver": "gam"}, r"method.solver is 'gam', but must be auto \| game"),
        ({"hidden": 100}, "method.hidden is 100, but must be a list of integers"),
        ({"hidden": "a"}, r"method\.hidden is 'a', but must be a list of integers$"),
        ({"hidden": ["a"]}, r"method\.hidden is \['a'\], but must be a list of integers"),
        ({"shrinkage": 3}, "method.shrinkage is 3, but must be a string or true or false"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(Thing, options, node="method")


def test_functions_are_checked_too() -> None:
    check(function, {"width": 3, "anything": object}, node="model")
    with pytest.raises(ValueError, match="width is '3', but must be an integer"):
        check(function, {"width": "3"}, node="model")


def test_checked_functions_check_themselves() -> None:
    @checked
    def build(*, hidden: Annotated[Sequence[int], Len(1)] = (1,), pool: Annotated[int, Ge(1)] = 2) -> int:
        """Build."""
        return len(hidden) * pool

    assert build(hidden=[3, 4]) == 4
    assert (build.__doc__, list(inspect.signature(build).parameters)) == ("Build.", ["hidden", "pool"])
    for given, message in (
        ({"pool": 0}, "pool is 0, but must be an integer >= 1"),
        ({"hidden": []}, r"hidden is \[\], but must be a list of integers with one entry or more"),
    ):
        with pytest.raises(OptionError, match=f"^{message}$"):
            build(**given)
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        build(width=3)
    with pytest.raises(OptionError, match=r"^model.pool is 0, but must be an integer >= 1$"):
        check(build, {"pool": 0}, node="model")


@options
class Declared:
    rank: Annotated[int, Ge(1)] | None = None
    damping: Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)] = (1.0,)
    share: Annotated[float, Ge(0), Lt(1)] = 0.0
    mode: Literal["a", "b"] = "a"
    small: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.mode == "b" and self.rank is None:
            raise ValueError("rank is null, but mode=b needs one")


@options
class Extended(Declared):
    factor: float = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor == 13:
            raise ValueError("factor is 13, but must be another number")


@options
class Inheriting(Declared):
    """Has no relations of its own."""

    elsewhere: ClassVar[dict[str, str]] = {"factor": "Extended has it"}


@pytest.mark.parametrize("cls", [Declared, Extended, Inheriting])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 0}, "^rank is 0, but must be an integer >= 1 or null$"),
        ({"rank": 1.5}, "^rank is 1.5, but must be an integer >= 1 or null$"),
        ({"damping": ()}, "^damping is \\(\\), but must be a list of numbers > 0 with one entry or more$"),
        ({"damping": [0]}, "^damping is \\[0\\], but must be a list of numbers > 0 with one entry or more$"),
        ({"share": 1.0}, "^share is 1.0, but must be a number >= 0 and < 1$"),
        ({"share": float("nan")}, "^share is nan, but must be finite$"),
        ({"damping": [float("inf")]}, "^damping is \\[inf\\], but must be finite$"),
        ({"mode": "c"}, "^mode is 'c', but must be a | b$"),
    ],
)
def test_ranges_are_checked(cls: type, given: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        cls(**given)


def test_relations_are_checked_after_types() -> None:
    with pytest.raises(ValueError, match="mode=b needs one"):
        Declared(mode="b")
    with pytest.raises(ValueError, match="factor is 13"):
        Extended(factor=13)
    with pytest.raises(ValueError, match="mode=b needs one"):
        Extended(mode="b")
    with pytest.raises(ValueError, match="mode=b needs one"):
        Inheriting(mode="b")
    assert Extended(mode="b", rank=2, damping=[1, 2]).rank == 2
    with pytest.raises(TypeError):
        Declared(3)
    with pytest.raises(FrozenInstanceError):
        Declared().rank = 3


def test_unknown_options_are_answered_by_those_there_are() -> None:
    with pytest.raises(TypeError, match=r"^Declared has no option factor: its options are rank, damping, share, mode$"):
        Declared(factor=2)
    with pytest.raises(TypeError, match=r"^Inheriting has no option factor: Extended has it$"):
        Inheriting(factor=2)
    assert list(inspect.signature(Extended).parameters) == ["rank", "damping", "share", "mode", "factor"]


def test_one_value_is_answered_by_how_a_list_is_written() -> None:
    with pytest.raises(OptionError, match=r"names is 'sex', but must be a list of strings: write 'names=\[sex\]'$"):
        check_type("sex", tuple[str, ...], name="names")
