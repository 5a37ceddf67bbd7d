"""Where erasers and erased shards go: what may be there, and who may write there."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from efface.embeddings.group import Group
from efface.embeddings.shards import Shard, Source
from efface.files import lock, require_writable, write_atomically

MARKER = "erased_by.json"
"""In a folder of erased shards: the digest of the eraser, the names of the columns, and what each shard was made of."""
REMEDY = "choose another place with --out"
"""For errors of writing, see `efface.files.write_atomically`."""


@contextmanager
def locked(path: Path, group: Group, what: str) -> Iterator[None]:
    """Hold a lock, on the first process, for all of them; two commands that write to one place take turns.

    Raises:
        OSError: the lock cannot be written.
    """
    with ExitStack() as stack:

        def acquire() -> None:
            if group.rank == 0:
                stack.enter_context(lock(path, say=lambda message: print(message, file=sys.stderr), what=what))

        group.gather(acquire)
        yield


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


def origin(shard: Shard) -> list[list[Any]]:
    """Return the files that an erased shard is made of, with their sizes and the times when they were written."""
    paths = [column.path.resolve() for column in (shard.x, shard.z) if column is not None]
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def mark(out: Path, facts: Mapping[str, Any], origins: Mapping[str, list[list[Any]]]) -> None:
    """Note in a folder how its shards are erased, and of which files; remove those whose files have changed.

    Args:
        out: the folder.
        facts: of the eraser.
        origins: what each shard is to be made of, by its name.

    Raises:
        OSError: it cannot be written.
        ValueError: it has shards of another eraser, or of files elsewhere, or files of these names and no mark.
    """
    marker = out / MARKER
    before = _marked(marker)
    made = {name: files for name, files in before.get("shards", {}).items() if (out / name).exists()}
    if made and {**before, "shards": None} != {**facts, "shards": None}:
        raise ValueError(f"--out: {out} has shards of another eraser or column: choose an empty folder")
    for name, files in origins.items():
        if name not in made and (out / name).exists():
            raise ValueError(
                f"--out: {out / name} is there, and was not erased by this command: choose an empty folder"
            )
        if name in made and _paths(made[name]) != _paths(files):
            raise ValueError(
                f"--out: {out / name} was made of {', '.join(_paths(made[name]))}, not of {', '.join(_paths(files))}: "
                "choose an empty folder, or remove it"
            )
    for name, files in origins.items():
        if name in made and made[name] != files:
            (out / name).unlink()
    text = json.dumps({**facts, "shards": made | dict(origins)}, sort_keys=True, indent=1) + "\n"
    if not marker.is_file() or marker.read_text(encoding="utf-8") != text:
        write_atomically(marker, lambda temporary: temporary.write_text(text, encoding="utf-8"), remedy=REMEDY)


def _marked(marker: Path) -> dict[str, Any]:
    """Return what a folder's marker says; ValueError if it is damaged."""
    if not marker.is_file():
        return {}
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        return {**content, "shards": dict(content["shards"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--out: {marker} is damaged: choose an empty folder") from error


def _paths(files: list[list[Any]]) -> list[str]:
    return [str(path) for path, *_ in files]
