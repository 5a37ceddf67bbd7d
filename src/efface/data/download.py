"""Downloads that leave nothing behind if they fail, not even the folder that they were meant for."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from efface.files import scratch


@contextlib.contextmanager
def download_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to download into; at the end, move its files to the same places below `folder`.

    `folder` is made only then.

    Raises:
        OSError: the place where `folder` is, or would be made, cannot be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    with scratch(existing, prefix=".download-") as parent:
        temporary = parent / "files"  # beside the lock of the folder
        temporary.mkdir()
        yield temporary
        folder.mkdir(parents=True, exist_ok=True)
        for path in temporary.iterdir():
            _move(path, folder / path.name)


def _move(source: Path, target: Path) -> None:
    """Move a file or a folder. A folder that is not there yet appears with all of its files at once."""
    try:
        source.replace(target)
    except OSError:  # a folder is there, perhaps of another process that was first
        if not (source.is_dir() and target.is_dir()):
            raise
        for path in source.iterdir():
            _move(path, target / path.name)
