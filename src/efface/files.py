"""Files that are whole or not there: locks, atomic writes, digests; and folders that go when their process does."""

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

_ALIVE, _LOCKED = ".alive", ".locked"
"""Files of a scratch folder: a lock that its process holds, and one that is there from when it was first held."""


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


def write_atomically(
    path: Path,
    write: Callable[[Path], object],
    *,
    remedy: str = "choose another place with results_dir=... or cache_dir=...",
) -> None:
    """Have `write` fill a temporary file beside `path`, then rename it: `path` is whole or not there.

    Args:
        path: the file; replaced if it is there.
        write: called with the temporary file.
        remedy: what else than freeing space helps where it cannot be written, for the error's message.

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
            raise OSError(f"cannot write {path} ({error}): free some space, or {remedy}") from error
        raise


def drop_temporary(folder: Path, stem: str = "") -> None:
    """Remove what `write_atomically` left of files whose name starts with `stem` when its process was killed.

    Only for who holds the lock of those files.
    """
    for path in folder.glob(f".{glob.escape(stem)}*.tmp"):
        path.unlink(missing_ok=True)


def drop_temporary_of(path: Path) -> None:
    """Remove what `write_atomically` left of this one file, and of no other, when its process was killed."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}.tmp"):
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(parent: Path, *, prefix: str) -> Iterator[Path]:
    """Make a folder that is removed at the end, and remove those that killed processes left of the same prefix.

    Args:
        parent: where.
        prefix: of its name; no other folders there may begin with it.

    Raises:
        OSError: the folder cannot be made.
    """
    from filelock import FileLock

    for path in parent.glob(f"{prefix}*"):
        _drop_abandoned(path)
    # Another process may find the folder abandoned between its unlocking and its removal, and be first.
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with FileLock(folder / _ALIVE):
            (folder / _LOCKED).touch()
            yield folder


def _drop_abandoned(folder: Path) -> None:
    """Remove a folder that `scratch` has made, if its process is no more."""
    from filelock import FileLock, Timeout

    # Without this file its process may live, and be about to take the lock.
    # Of another user's folder nothing can be asked: `Path.is_file` then raises, `os.path.isfile` says no.
    if not os.path.isfile(folder / _LOCKED):
        return
    with contextlib.suppress(Timeout, OSError), FileLock(folder / _ALIVE).acquire(timeout=0):
        shutil.rmtree(folder, ignore_errors=True)


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
