"""What one comparison came to."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One comparison."""

    what: str
    """What was compared."""
    holds: bool | None
    """None where it could not be compared, and `detail` says why."""
    detail: str = ""
    """What differs."""

    def __str__(self) -> str:
        word = {True: "ok", False: "DIFFERS", None: "not checked"}[self.holds]
        return f"{word:12} {self.what}" + (f": {self.detail}" if self.detail else "")


def compared(what: str, differences: Sequence[str], detail: str = "") -> Check:
    """Return a check that holds where nothing differs."""
    return Check(what, not differences, "; ".join(differences) or detail)
