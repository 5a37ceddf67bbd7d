"""Trained models, features and decoded images on disk: built once, shared by all runs, checked when read.

An entry lies under a hash of all that determines it: tensors and facts in one file of `efface.tensorfiles`, or one
array in numpy's own format beside a JSON file with its checksum, which is written last. A read-only cache can be read.
"""

import hashlib
import io
import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from efface import tensorfiles
from efface.files import drop_temporary, file_digest, lock, require_writable, write_atomically

FORMAT = 2
"""Part of every key: raise it when what is stored changes its meaning."""

Entry = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and JSON-able facts."""
T = TypeVar("T")


def cached(
    cache_dir: Path,
    kind: str,
    key: Mapping[str, Any],
    build: Callable[[], Entry],
    *,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Return the tensors and facts under `key`, built by `build` if they are not there; and whether they were.

    Args:
        cache_dir: the cache's folder; made if missing.
        kind: sub-folder, such as `model`.
        key: JSON-able, all that determines the entry.
        build: makes the entry. Only one process runs it for one key; others wait for it and read.
        say: called with a message when there is something to wait for.

    Raises:
        OSError: the entry is not there, and the folder cannot be written.
    """
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    path = _stem(cache_dir / kind, text).with_suffix(".safetensors")

    def read() -> Entry:
        tensors, stored = tensorfiles.read(path, kind=kind)
        _require_key(stored, text)
        return tensors, stored["facts"]

    with _locked(path, kind, say):
        entry = _read([path], read)
        if entry is not None:
            return *entry, True
        _prepare(path)
        tensors, facts = build()
        tensorfiles.write(path, tensors, kind=kind, facts={"key": text, "facts": facts})
        del tensors, facts  # what is read may lie otherwise in memory: all runs use the same, the first one too
        return *read(), False


def cached_array(
    cache_dir: Path,
    kind: str,
    key: Mapping[str, Any],
    shape: tuple[int, ...],
    chunks: Callable[[], Iterable[np.ndarray]],
    *,
    say: Callable[[str], None] = print,
) -> np.memmap:
    """Return a uint8 array of `shape` on disk, memory-mapped and read-only; written from `chunks` if it is not there.

    Neither writing nor checking holds more than a chunk in memory.

    Args:
        cache_dir, kind, key, say: as for `cached`.
        shape: of the whole.
        chunks: makes its parts along the first axis, in order.

    Raises:
        OSError: the array is not there, and the folder cannot be written.

    Cost: one pass over the file for its checksum, about a second for a gigabyte.
    """
    text = json.dumps({"format": FORMAT, "shape": shape, **key}, sort_keys=True)
    path = _stem(cache_dir / kind, text).with_suffix(".npy")
    described = path.with_suffix(".json")

    def read() -> np.memmap:
        stored = json.loads(described.read_text())
        _require_key(stored, text)
        if stored["sha256"] != file_digest(path):
            raise ValueError("its checksum is wrong")
        array: np.memmap = np.load(path, mmap_mode="r")
        return array

    with _locked(path, kind, say):
        array = _read([path, described], read)
        if array is None:
            _prepare(path)
            checksum = _write_array(path, shape, chunks())
            content = json.dumps({"key": text, "sha256": checksum})
            write_atomically(described, lambda temporary: temporary.write_text(content))
            array = read()
        return array


def _stem(folder: Path, key: str) -> Path:
    return folder / hashlib.sha256(key.encode()).hexdigest()[:16]


def _locked(path: Path, kind: str, say: Callable[[str], None]) -> Any:
    if not path.parent.is_dir():
        require_writable(path.parent, option="cache_dir")
    return lock(path.with_suffix(".lock"), say=say, what=f"the {kind} that it needs")


def _prepare(path: Path) -> None:
    """Check that an entry can be written, before it is built, and remove what a killed builder left of it."""
    require_writable(path.parent, option="cache_dir")
    drop_temporary(path.parent, path.stem)


def _require_key(stored: Mapping[str, Any], key: str) -> None:
    if stored["key"] != key:
        raise ValueError("it was made for another key")


def _read(files: list[Path], read: Callable[[], T]) -> T | None:
    """Read an entry, whose last file is written last; None if it is not there, or damaged and dropped."""
    if not files[-1].is_file():
        return None
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"cache entry {files[0]} is damaged ({error}); it is dropped and built anew", stacklevel=4)
    for file in reversed(files):
        with suppress(OSError):  # of a read-only cache; that it cannot be written is said before it is built
            file.unlink(missing_ok=True)
    return None


def _pixels(chunk: np.ndarray) -> bytes:
    if chunk.dtype != np.uint8:
        raise ValueError(f"chunks: one has dtype {chunk.dtype}, but must be uint8")
    return chunk.tobytes()


def _write_array(path: Path, shape: tuple[int, ...], chunks: Iterable[np.ndarray]) -> str:
    """Write an array chunk by chunk, atomically; returns its checksum."""
    hasher = hashlib.sha256()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for content in itertools.chain([header.getvalue()], (_pixels(chunk) for chunk in chunks)):
                hasher.update(content)
                file.write(content)
            if file.tell() != len(header.getvalue()) + math.prod(shape):
                raise ValueError(f"chunks: they have {file.tell() - len(header.getvalue())} bytes, not {list(shape)}")

    write_atomically(path, write)
    return hasher.hexdigest()
