"""Files that are whole or not there: locks, atomic writes, digests."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path


def lock(path: Path, *, say: Callable[[str], None], what: str) -> AbstractContextManager[object]:
    """Acquire a lock, to be released by a `with`, and say so before waiting. The lock dies with its process.

    In a folder that this process cannot write, no lock can be made and none is needed: it can only read there, and
    files change there only as a whole.

    Raises:
        OSError: the folder can be written, but the lock cannot.
    """
    from filelock import FileLock, Timeout

    file_lock = FileLock(path)
    try:
        return file_lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is making {what}; waiting for it ({path})")
        return file_lock.acquire()
    except OSError:
        effective = os.access in os.supports_effective_ids
        if path.parent.is_dir() and not os.access(path.parent, os.W_OK, effective_ids=effective):
            return nullcontext()
        raise


def require_writable(folder: Path, *, option: str) -> None:
    """Make a folder if it is missing, and check that it can be written before anything costly begins.

    Raises:
        OSError: it cannot be made or written; the message names the option that sets another place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error}): set {option}=... to a folder that can be written"
        ) from error


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


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
