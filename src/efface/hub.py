"""Which weights a model of Hugging Face has: a digest of its folder, or its commit on the hub; and where it is."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from efface.files import digest, file_digest, write_atomically

_LARGE = 1 << 24
"""Bytes from which on a file's digest is kept, since reading it takes longer than looking it up."""


def folder_digest(folder: Path, cache_dir: Path | None = None) -> str:
    """Return 16 hex digits that change when a file in a folder does, in content or name.

    Args:
        folder: of a model and its tokeniser; hidden files and sub-folders do not count.
        cache_dir: of `efface.cache`, where the digests of large files are kept by path, size and time of change; None
            to keep none.

    Cost: one pass over the files; over the large ones only when they are new.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return digest(*(f"{path.name} {_remembered(path, cache_dir)}\n".encode() for path in files))


def hub_commit(name: str, revision: str | None = None) -> str:
    """Return the commit of a model on the hub: that which is on this machine already, else its latest.

    Args:
        name: of the model.
        revision: a branch, a tag or a commit; None for the branch `main`.

    Raises:
        ValueError: it is neither here nor can the hub be reached.
    """
    from huggingface_hub import model_info, try_to_load_from_cache

    try:
        here = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(here, str):
            return Path(here).parent.name  # .../snapshots/<commit>/config.json
        return str(model_info(name, revision=revision, timeout=30).sha)
    except Exception as error:  # of many kinds: no name of a model, no network, no such model, no access
        which = name if revision is None else f"{name} at revision {revision}"
        raise ValueError(
            f"path: {which} cannot be loaded ({str(error).splitlines()[0]}): give the folder of a model, or a name on "
            "the hub that can be reached from here"
        ) from error


def read_pretrained(auto: Any, where: Mapping[str, Any], *, option: str, advice: str, **options: Any) -> Any:
    """Call `from_pretrained` of a class of `transformers`.

    Args:
        auto: the class.
        where: arguments that say where the model is.
        option: that names the model, for the message.
        advice: what to name instead, for the message.
        options: further arguments.

    Raises:
        ValueError: what is there cannot be read.
    """
    try:
        return auto.from_pretrained(**where, **options)
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        name = where["pretrained_model_name_or_path"]
        raise ValueError(
            f"{option}: {name} cannot be loaded ({(str(error).splitlines() or [''])[0]}): give {advice}, or a name on "
            "the hub that can be reached from here"
        ) from error


def model_class(name: str) -> Any:
    """Return a class of models of `transformers` by the name that a `config.json` holds.

    Raises:
        ValueError: `transformers` has no such model. A name of something else, which would be called, is none.
    """
    import transformers

    kind = getattr(transformers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise ValueError(f"transformers has no model {name!r}: a class of your own goes --to safetensors")
    return kind


def dtype_argument(dtype: torch.dtype) -> dict[str, Any]:
    """Return the argument of `from_pretrained` for the type of the weights, under the name that it has here.

    It was renamed: the old name warns in new versions, and old versions do not know the new one.
    """
    major, minor = version("transformers").split(".")[:2]
    return {"dtype" if (int(major), int(minor)) >= (4, 56) else "torch_dtype": dtype}


def in_package(path: str) -> str:
    """Resolve `package:<package>/<folder>` to a folder of an installed Python package; return other paths as they are.

    Raises:
        ValueError: no such package is installed.
    """
    if not path.startswith("package:"):
        return path
    package, _, folder = path.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"path: no package {package} is installed: pip install {package.replace('_', '-')}")
    return str(Path(spec.origin).parent / folder)


def _remembered(path: Path, cache_dir: Path | None) -> str:
    facts = path.stat()
    if cache_dir is None or facts.st_size < _LARGE:
        return file_digest(path)
    key = digest(f"{path.absolute()} {facts.st_size} {facts.st_mtime_ns}".encode())
    note = cache_dir / "digest" / key
    if note.is_file() and len(known := note.read_text()) == 64:
        return known
    value = file_digest(path)
    with suppress(OSError):  # a read-only cache: it is computed again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, lambda temporary: temporary.write_text(value))
    return value
