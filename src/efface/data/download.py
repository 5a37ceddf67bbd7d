"""Downloads that leave nothing behind if they fail, not even the folder that they were meant for."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def download_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to download into; at the end, move its files to the same places below `folder`.

    `folder` is made only then.

    Raises:
        OSError: the place where `folder` is, or would be made, cannot be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    with tempfile.TemporaryDirectory(prefix=".download-", dir=existing) as temporary:
        yield Path(temporary)
        for file in [path for path in Path(temporary).rglob("*") if path.is_file()]:
            target = folder / file.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
