"""Words for messages."""

from collections.abc import Sequence


def some(names: Sequence[str], most: int = 5) -> str:
    """Join the first few of `names`, and say how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
