"""Which weights a model of Hugging Face has: a digest of its folder, or its commit on the hub."""

from contextlib import suppress
from pathlib import Path

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
