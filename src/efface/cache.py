"""Trained models, features and decoded images on disk: built once, shared by all runs, checked when read.

An entry is two files under a hash of all that determines it: tensors in safetensors, or one array in numpy's own
format, and a JSON file with their checksum that is written last. No JSON, no entry; another checksum, no entry either.
"""

import hashlib
import io
import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from efface.files import drop_temporary, lock, write_atomically

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
    stem = _stem(cache_dir / kind, text)
    with lock(stem.with_suffix(".lock"), say=say, what=f"the {kind} that it needs"):
        found = _read(stem, text)
        if found is not None:
            return *found, True
        drop_temporary(stem.parent, stem.name)
        tensors, facts = build()
        _write(stem, text, tensors, facts)
        return tensors, facts, False


def cached_array(
    cache_dir: Path,
    kind: str,
    key: Mapping[str, Any],
    shape: tuple[int, ...],
    chunks: Callable[[], Iterable[np.ndarray]],
    *,
    say: Callable[[str], None] = print,
) -> np.memmap:
    """A uint8 array of `shape` on disk, memory-mapped and read-only; written from `chunks` if it is not there.

    Neither writing nor checking holds more than a chunk in memory.

    Args:
        cache_dir, kind, key, say: as for `cached`.
        shape: of the whole.
        chunks: makes its parts along the first axis, in order.

    Cost: one pass over the file for its checksum, about a second for a gigabyte.
    """
    text = json.dumps({"format": FORMAT, "shape": shape, **key}, sort_keys=True)
    stem = _stem(cache_dir / kind, text)
    with lock(stem.with_suffix(".lock"), say=say, what=f"the {kind} that it needs"):
        found = _read_array(stem, text)
        if found is None:
            _write_array(stem, text, shape, chunks())
            found = np.load(stem.with_suffix(".npy"), mmap_mode="r")
        return found


def _stem(folder: Path, key: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error}): set cache_dir=... to a folder that can be") from error
    return folder / hashlib.sha256(key.encode()).hexdigest()[:16]


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
    _drop(meta, data, reason)
    return None


def _read_array(stem: Path, key: str) -> np.memmap | None:
    meta, data = stem.with_suffix(".json"), stem.with_suffix(".npy")
    if not meta.is_file():
        return None
    try:
        entry = json.loads(meta.read_text())
        with data.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if entry["key"] == key and entry["sha256"] == checksum:
            array: np.memmap = np.load(data, mmap_mode="r")
            return array
        reason = "its checksum is wrong"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it cannot be read: {error}"
    _drop(meta, data, reason)
    return None


def _drop(meta: Path, data: Path, reason: str) -> None:
    warnings.warn(f"cache entry {data} is damaged ({reason}); it is dropped and built anew", stacklevel=4)
    meta.unlink(missing_ok=True)
    data.unlink(missing_ok=True)


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


def _write_array(stem: Path, key: str, shape: tuple[int, ...], chunks: Iterable[np.ndarray]) -> None:
    digest = hashlib.sha256()

    def write(path: Path) -> None:
        with path.open("wb") as file:
            header = io.BytesIO()
            layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(header, layout)
            for content in itertools.chain([header.getvalue()], (chunk.tobytes() for chunk in chunks)):
                digest.update(content)
                file.write(content)

    data = stem.with_suffix(".npy")
    write_atomically(data, write)
    entry = {"key": key, "sha256": digest.hexdigest()}
    write_atomically(stem.with_suffix(".json"), lambda path: path.write_text(json.dumps(entry)))
