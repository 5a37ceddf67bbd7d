"""Trained models and features on disk: built once, shared by all runs and processes, checked when read.

An entry is two files under a hash of all that determines it: tensors in safetensors, and a JSON file with their
checksum that is written last. No JSON, no entry; another checksum, no entry either.
"""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

FORMAT = 1
"""Part of every key: raise it when what is stored changes its meaning."""

Entry = tuple[dict[str, Tensor], dict[str, Any]]


def cached(
    cache_dir: Path,
    kind: str,
    key: Mapping[str, Any],
    build: Callable[[], Entry],
    *,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Tensors and JSON-able facts under `key`, built by `build` if they are not there; and whether they were.

    Args:
        cache_dir: the cache's folder; made if missing.
        kind: sub-folder, such as `model`.
        key: JSON-able, all that determines the entry.
        build: makes the entry. Only one process runs it for one key; others wait for it and read.
        say: told when there is something to wait for.
    """
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    folder = cache_dir / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error}): set cache_dir=... to a folder that can be") from error
    stem = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    with lock(stem.with_suffix(".lock"), say=say, what=f"the {kind} that it needs"):
        found = _read(stem, text)
        if found is not None:
            return *found, True
        drop_temporary(folder, stem.name)
        tensors, facts = build()
        _write(stem, text, tensors, facts)
        return tensors, facts, False


def lock(path: Path, *, say: Callable[[str], None], what: str) -> AbstractContextManager[object]:
    """An acquired lock, to be released by a `with`; says so before it waits. It dies with its process."""
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read(stem: Path, key: str) -> Entry | None:
    from safetensors.torch import load

    meta, data = stem.with_suffix(".json"), stem.with_suffix(".safetensors")
    if not meta.is_file():
        return None
    try:
        entry = json.loads(meta.read_text())
        content = data.read_bytes()
        if entry["key"] == key and entry["sha256"] == _checksum(content, entry["facts"]):
            return load(content), entry["facts"]
        reason = "its checksum is wrong"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it cannot be read: {error}"
    warnings.warn(f"cache entry {data} is damaged ({reason}); it is dropped and built anew", stacklevel=3)
    meta.unlink(missing_ok=True)
    data.unlink(missing_ok=True)
    return None


def _checksum(content: bytes, facts: dict[str, Any]) -> str:
    digest = hashlib.sha256(content)
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def _write(stem: Path, key: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    from safetensors.torch import save

    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    entry = {"key": key, "sha256": _checksum(content, facts), "facts": facts}
    write_atomically(stem.with_suffix(".safetensors"), lambda path: path.write_bytes(content))
    write_atomically(stem.with_suffix(".json"), lambda path: path.write_text(json.dumps(entry)))
