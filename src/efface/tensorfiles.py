"""Tensors on disk: one safetensors file that names its kind, carries a checksum, and is whole or not there.

A file is data. It names a *kind*, a word that its reader knows; nothing that a file names is ever imported. The same
content gives the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface.files import write_atomically

_KIND, _CHECKSUM, _FACTS = "efface", "sha256", "facts"
"""Keys of the metadata."""


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    facts: Mapping[str, Any] | None = None,
    remedy: str | None = None,
) -> None:
    """Write tensors and JSON-able facts, atomically.

    Args:
        path: the file; replaced once the new one is whole.
        tensors: by name; copied to the CPU.
        kind: what the file holds, such as `LeaceEraser`.
        facts: what else the reader needs.
        remedy: see `write_atomically`; None for its own.

    Raises:
        OSError: the disk is full or read-only.
        ValueError: a fact is NaN or infinite.
    """
    from safetensors.torch import save

    content = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    text = json.dumps(dict(facts or {}), sort_keys=True, allow_nan=False)
    metadata = {_KIND: kind, _FACTS: text, _CHECKSUM: _checksum(kind, text, content)}
    data = _in_order(save(content, metadata=metadata))
    options = {} if remedy is None else {"remedy": remedy}
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(data), **options)


def read(
    path: str | os.PathLike[str], *, kind: str, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote under this kind.

    Returns:
        The tensors by name, and the facts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copied to memory that torch aligns: products of float32 round differently at other addresses.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a saved {kind} ({error}): make and save it again") from error
    if metadata.get(_KIND) != kind:
        content = f"a saved {metadata[_KIND]}" if _KIND in metadata else "something else, or is of an earlier efface"
        raise ValueError(f"{path} is not a saved {kind}, it holds {content}: make and save it again")
    text = metadata.get(_FACTS, "")
    if metadata.get(_CHECKSUM) != _checksum(kind, text, tensors):
        raise ValueError(f"{path} is damaged: its checksum is wrong; make and save the {kind} again")
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError(f"{path} is damaged: its facts are no mapping; make and save the {kind} again")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, facts


def kind(path: str | os.PathLike[str]) -> str | None:
    """Return the kind under which `write` wrote a file; None if something else did.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(_KIND)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file ({error}): make and save it again") from error


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name: their dtypes, shapes and bytes, in hex."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy those that share memory with one before: safetensors refuses to save the same memory twice."""
    seen, apart = set[int](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _in_order(data: bytes) -> bytes:
    """Sort the keys of a safetensors header, whose metadata come in random order: equal content, equal bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[start:]


def _checksum(kind: str, facts: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{kind}\n{facts}\n{content_digest(tensors)}".encode()).hexdigest()
