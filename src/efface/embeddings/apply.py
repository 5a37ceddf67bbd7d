"""Erase a concept from shards, file by file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from efface.embeddings.erasers import LoadedEraser
from efface.embeddings.group import Group
from efface.embeddings.outputs import REMEDY, locked, mark, origin, require_folder
from efface.embeddings.shards import Shard, Source, batches_of, opened, progress
from efface.files import drop_temporary_of, file_digest, write_atomically


def apply(source: Source, loaded: LoadedEraser, out: Path, group: Group) -> str:
    """Write erased copies of shards, of the same names, formats and dtypes; the processes of a group share the shards.

    Whatever else is in a shard is copied. Each is whole or not there; one that is there, and whose files are those that
    it was made of, is skipped. Two calls with one folder take turns.

    Args:
        source: the shards.
        loaded: the eraser.
        out: a folder.
        group: the processes.

    Returns:
        What was done, in words.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a shard does not fit the eraser, or the folder holds something else.
    """
    shards, data = opened(source, group, labelled=loaded.needs_labels)
    loaded.require_width(data)
    group.gather(lambda: None if group.rank else require_folder(out, source))
    with locked(out / ".erased_by.lock", group, f"shards in {out}"):
        parts = group.gather(lambda: {shard.x.path.name: origin(shard) for shard in shards})
        origins = {name: files for part in parts for name, files in part.items()}
        group.gather(lambda: None if group.rank else mark(out, _facts(source, loaded), origins))
        counts = group.gather(lambda: _apply(shards, loaded, out, data.batch, group))
    return f"{out}: {sum(counts):,} shards erased, {len(source.shards) - sum(counts):,} were done before"


def _facts(source: Source, loaded: LoadedEraser) -> dict[str, str | None]:
    """Return what erased shards depend on, but for their files."""
    return {"eraser": file_digest(loaded.path), "x": source.x, "z": source.z if loaded.needs_labels else None}


def _apply(shards: list[Shard], loaded: LoadedEraser, out: Path, rows: int, group: Group) -> int:
    """Write the copies of this process's shards that are not there; return how many."""
    count = 0
    with progress(shards, group, "apply") as bar:
        for shard in shards:
            target = out / shard.x.path.name
            drop_temporary_of(target)
            if target.is_file():
                bar.update(shard.x.rows)
                continue
            _write(shard, target, loaded, rows, bar)
            count += 1
    return count


def _write(shard: Shard, target: Path, loaded: LoadedEraser, rows: int, bar: "tqdm[Any]") -> None:
    """Write the copy of one shard."""

    def erased() -> Iterator[Tensor]:
        for batch in batches_of([shard], rows, bar):
            yield batch.named(lambda: loaded.erase(batch.x, batch.z))  # noqa: B023 - called at once

    write_atomically(target, lambda temporary: shard.x.rewrite(temporary, erased()), remedy=REMEDY)
