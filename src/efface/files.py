"""Files that are whole or not there: locks, atomic writes, digests."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path


def lock(path: Path, *, say: Callable[[str], None], what: str) -> AbstractContextManager[object]:
    """Acquire a lock, to be released by a `with`; says so before it waits. The lock dies with its process."""
    from filelock import FileLock, Timeout

    held = FileLock(path)
    try:
        return held.acquire(timeout=0)
    except Timeout:
        say(f"another process is making {what}; waiting for it ({path})")
        return held.acquire()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file beside `path`, then rename it: `path` is whole or not there.

    Raises:
        OSError: with the folder and what to do, if the disk is full or read-only.
    """
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(
                f"cannot write {path} ({error}): free some space, or choose another place with results_dir=... "
                "or cache_dir=..."
            ) from error
        raise


def drop_temporary(folder: Path, stem: str = "") -> None:
    """Remove what `write_atomically` left of files whose name starts with `stem` when its process was killed.

    Only for who holds the lock of those files.
    """
    for path in folder.glob(f".{stem}*.tmp"):
        path.unlink(missing_ok=True)


def digest(*parts: bytes) -> str:
    """Return 16 hex digits of the SHA-256 of the parts, one after the other."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()[:16]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
