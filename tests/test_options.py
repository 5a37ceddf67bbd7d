from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch

from efface.options import check


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
def test_what_fits_passes(options: dict) -> None:
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
        ({"hidden": ["a"]}, r"method\.hidden is \['a'\], but must be a list of integers"),
        ({"shrinkage": 3}, "method.shrinkage is 3, but must be a text or true or false"),
    ],
)
def test_what_does_not_fit_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(Thing, options, node="method")


def test_functions_are_checked_too() -> None:
    check(function, {"width": 3, "anything": object}, node="model")
    with pytest.raises(ValueError, match="width is '3', but must be an integer"):
        check(function, {"width": "3"}, node="model")
