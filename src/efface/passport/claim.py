"""What a method did, and what that proves."""

from typing import NamedTuple

from efface.passport.schema import Guarantee


class Claim(NamedTuple):
    """What a method did, and what that proves."""

    removed: str
    guarantee: Guarantee


def no_guarantee(statement: str, removed: str) -> Claim:
    """Return the claim of a method that proves nothing."""
    return Claim(removed, Guarantee(kind="none", statement=statement))
