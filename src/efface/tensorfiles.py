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

_HEADER = "efface"
"""The one key of the metadata: safetensors writes several in random order, and files would differ from run to run."""


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], *, kind: str, facts: Mapping[str, Any] | None = None
) -> None:
    """Write tensors and JSON-able facts, atomically.

    Args:
        path: the file; replaced once the new one is whole.
        tensors: by name; copied to the CPU.
        kind: what the file holds, such as `LeaceEraser`.
        facts: what else the reader needs.

    Raises:
        OSError: the disk is full or read-only.
        ValueError: a fact is NaN or infinite.
    """
    from safetensors.torch import save

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"kind": kind, "facts": dict(facts or {})}
    header["sha256"] = _checksum(header, content)
    data = save(content, metadata={_HEADER: _json(header)})
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(data))


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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a saved {kind} ({error}): make and save it again") from error
    header = _header(metadata)
    if header is None or header["kind"] != kind:
        content = "something else, or is of an earlier efface" if header is None else f"a saved {header['kind']}"
        raise ValueError(f"{path} is not a saved {kind}, it holds {content}: make and save it again")
    if header.get("sha256") != _checksum({key: header[key] for key in ("kind", "facts")}, tensors):
        raise ValueError(f"{path} is damaged: its checksum is wrong; make and save the {kind} again")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, header["facts"]


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name: their dtypes, shapes and bytes, in hex."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _header(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what `write` put into the metadata; None if it did not write them."""
    try:
        header = json.loads(metadata[_HEADER])
        return header if isinstance(header["kind"], str) and isinstance(header["facts"], dict) else None
    except (KeyError, TypeError, ValueError):
        return None


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{_json(header)}\n{content_digest(tensors)}".encode()).hexdigest()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)
