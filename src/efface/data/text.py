"""Words for messages, and lines of files."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path


def some(names: Sequence[str], most: int = 5) -> str:
    """Join the first few of `names`, and say how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Read the lines of a text in UTF-8 with their numbers, without line ends and byte order mark.

    Raises:
        ValueError: a line is not in UTF-8; file and line are named.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file}, line {number} is not in UTF-8 ({error.reason} at character {error.start + 1}): save the "
                    "file as UTF-8, or fetch it again"
                ) from error


def closest(name: str, known: Sequence[str]) -> str:
    """Join the names that a misspelt one may mean, or the first few of all."""
    return some(difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known)
