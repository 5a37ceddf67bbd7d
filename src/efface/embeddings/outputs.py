"""Where erasers and erased shards go: what may be there, and errors that say what to do."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from efface.embeddings.shards import Source
from efface.files import require_writable, write_atomically

MARKER = "erased_by.json"
"""In a folder of erased shards: the digest of the eraser, and the name of the column."""


@contextmanager
def naming_out(path: Path) -> Iterator[None]:
    """Name `--out` in an error of writing `path`."""
    try:
        yield
    except OSError as error:
        reason = error.__cause__ or error
        raise OSError(f"cannot write {path} ({reason}): free some space, or choose another place with --out") from error


def require_folder(out: Path, source: Source) -> None:
    """Check that erased shards can go into a folder without touching their inputs or one another; make it.

    Raises:
        OSError: it cannot be written.
        ValueError: inputs lie in it, or two shards have one name.
    """
    names = [path.name for path in source.shards]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two shards are called {twice}: erase them into folders of their own, in two calls")
    if any(path.resolve().parent == out.resolve() for files in source.inputs() for path in files):
        raise ValueError(f"--out: {out} is the folder of the shards: choose another one")
    if out.is_file():
        raise ValueError(f"--out: {out} is a file: name a folder")
    require_writable(out, option="--out")


def mark(out: Path, facts: dict[str, str], names: Sequence[str]) -> None:
    """Note in a folder how its shards are erased.

    Raises:
        OSError: it cannot be written.
        ValueError: it has another mark, or has files of these names and no mark.
    """
    marker = out / MARKER
    text = json.dumps(facts, sort_keys=True) + "\n"
    if marker.is_file():
        if marker.read_text(encoding="utf-8") != text:
            raise ValueError(f"--out: {out} has shards of another eraser or column: choose an empty folder")
        return
    foreign = next((name for name in names if (out / name).exists()), None)
    if foreign is not None:
        raise ValueError(f"--out: {out / foreign} is there, and was not erased by this command: choose an empty folder")
    with naming_out(marker):
        write_atomically(marker, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def is_done(target: Path, inputs: Sequence[Path]) -> bool:
    """Tell whether an erased shard is there and no older than the files that it was made of."""
    return target.is_file() and target.stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in inputs)
