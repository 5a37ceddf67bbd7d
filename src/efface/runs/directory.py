"""The folder of a run: what is finished there, and how a new result takes the place of an old one.

A result is a record and the files that it names, its artefacts. A new one is written beside the old one as a whole, and
then moved over it; a process that is killed meanwhile leaves either the old result, or all that the next one needs to
go on moving. So a reader never has to do with half a result, but for the instant of moving.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from efface.files import drop_temporary, file_digest, write_atomically
from efface.record import PASSPORT_FILES, READABLE, RECORD, Record

UNFINISHED, COMPLETE = ".unfinished", ".complete"
"""Folders of a result that is being written, and of one that is whole but not yet moved to its place."""
_STAGED = "record"
"""Name of the record there: another than in its place, so that no reader of records takes it for a second one."""

Writers = Mapping[str, Callable[[Path], object]]
"""What writes each artefact, by its name."""


def publish(directory: Path, writers: Writers, record_of: Callable[[dict[str, str | None]], Record]) -> Record:
    """Write artefacts and record, and let them take the place of what is there.

    Args:
        directory: of the run, whose lock the caller holds.
        writers: of the artefacts.
        record_of: makes the record from the artefacts' digests.

    Raises:
        OSError: the disk is full or read-only. What was there before is as it was.
        ValueError: the record holds NaN or an infinite number; likewise.
    """
    unfinished = directory / UNFINISHED
    try:
        unfinished.mkdir()
        for name, write in writers.items():
            write_atomically(unfinished / name, write)
        record = record_of({name: file_digest(unfinished / name) for name in sorted(writers)})
        text = record.to_json()
        write_atomically(unfinished / _STAGED, lambda path: path.write_text(text))
        unfinished.rename(directory / COMPLETE)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    complete(directory)
    return record


def complete(directory: Path) -> None:
    """Move a result that is whole to its place, if there is one; this goes on where a killed process stopped."""
    source = directory / COMPLETE
    if not source.is_dir():
        return
    if (source / _STAGED).exists() and not _is_record(source / _STAGED):  # a disk's fault, or a person's
        shutil.rmtree(source)
        return
    superseded = _artifacts(directory / RECORD)
    for path in source.iterdir():
        if path.name != _STAGED:
            path.replace(directory / path.name)
    if (source / _STAGED).exists():  # last: until then it is the old record that counts
        (source / _STAGED).replace(directory / RECORD)
    for name in (superseded | {*PASSPORT_FILES}) - _artifacts(directory / RECORD):  # a passport is of the old record
        (directory / name).unlink(missing_ok=True)
    source.rmdir()


def clear(directory: Path) -> None:
    """Remove what processes that were killed left half-written; the caller holds the lock."""
    drop_temporary(directory)
    shutil.rmtree(directory / UNFINISHED, ignore_errors=True)


def damages(directory: Path, record: Record, required: tuple[str, ...]) -> list[str]:
    """Say which artefacts are not as the record has them.

    Args:
        directory: of the run.
        record: what is finished there.
        required: artefacts that a run which is done has to have.

    Returns:
        A sentence for each, such as `debiased.safetensors is gone`.

    Cost: one pass over the files.
    """
    sentences = []
    for name in sorted({*record.artifacts, *(required if record.status == "done" else ())}):
        if not (directory / name).is_file():
            sentences.append(f"{name} is gone")
        elif record.artifacts.get(name) != file_digest(directory / name):
            sentences.append(f"{name} has changed")
    return sentences


def _is_record(path: Path) -> bool:
    try:
        Record.read(path)
    except (OSError, ValueError):
        return False
    return True


def _artifacts(path: Path) -> set[str]:
    """Return the files that a record names beside it; none if it cannot be read."""
    try:
        names = Record.read(path, versions=READABLE).artifacts
    except (OSError, ValueError):
        return set()
    return {name for name in names if Path(name).name == name}
