"""Fit an eraser on shards."""

import functools
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from efface import tensorfiles
from efface.embeddings.checkpoint import Checkpoint
from efface.embeddings.group import Group
from efface.embeddings.outputs import REMEDY, locked
from efface.embeddings.shards import Shard, Source, Summary, batches_of, opened, progress, require_varying
from efface.erasure.fitting import Fitter, MomentsFitter
from efface.erasure.leace import LeaceFitter
from efface.erasure.oracle import OracleFitter
from efface.erasure.quadratic import QuadraticFitter
from efface.files import drop_temporary_of, require_writable

Method = Literal["leace", "orth", "oracle", "quadratic"]


@dataclass(frozen=True)
class Fit:
    """How an eraser is fitted.

    Args:
        method: `leace`, `orth` for SAL, or `oracle` and `quadratic`, which need the labels when they are applied.
        shrinkage: shrink covariances, as the fitters do; of `leace` the correlation matrix, of `oracle` none.
        rtol: of `leace`, `orth`, and `oracle` of numbers: concept directions this weak stay in place.
    """

    method: Method = "leace"
    shrinkage: bool = True
    rtol: float = 1e-4

    def fitter(self, data: Summary) -> Fitter[Any]:
        """Make a fitter that has seen nothing, for shards that hold `data`.

        Raises:
            ValueError: the labels or an option do not suit the method.
        """
        concept = data.concept
        assert concept is not None
        if self.method == "quadratic":
            if concept.classes is None:
                raise ValueError("the labels are numbers, but --method quadratic needs integer classes")
            return QuadraticFitter(
                data.d, concept.classes, dtype=data.dtype, shrinkage=self.shrinkage, weighted_mean=True
            )
        # A binary concept is one column, as for `LeaceEraser.fit`.
        k = concept.width if concept.classes is None else concept.classes if concept.classes > 2 else 1
        if self.method == "oracle":
            return OracleFitter(data.d, k, dtype=data.dtype, rtol=self.rtol)
        shrinkage: Literal["correlation", False] = "correlation" if self.shrinkage else False
        return LeaceFitter(data.d, k, self.method, dtype=data.dtype, rtol=self.rtol, shrinkage=shrinkage)


def fit(source: Source, how: Fit, out: Path, group: Group, *, seconds: float) -> str:
    """Fit an eraser on labelled shards and save it; the processes of a group share the shards.

    A call that was killed is continued by the same call, at the shard after the last checkpoint, and then gives the
    same file byte for byte.

    Args:
        source: the shards.
        how: the method.
        out: the eraser's file. Checkpoints are hidden files beside it.
        group: the processes.
        seconds: how often to write a checkpoint.

    Returns:
        What was fitted, in words.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: shards, labels or options are wrong.
    """
    group.gather(lambda: _require_place(out, source))
    shards, data = opened(source, group, labelled=True)
    data.require_contrast()
    fitter = how.fitter(data)
    names, facts = (source.x, source.z), (data.rows, data.d, str(data.dtype), data.concept)
    settings = [vars(how), group.rank, group.size, names, facts, _versions(shards)]
    place = out.with_name(f".{out.name}.{group.rank}-of-{group.size}.partial")
    checkpoint = Checkpoint(place, settings, seconds, remedy=REMEDY)
    with locked(out.with_name(f".{out.name}.lock"), group, str(out)):
        group.gather(lambda: _add(fitter, shards, data.batch, checkpoint, group))
        if group.size > 1:
            fitter.all_reduce()
        group.gather(lambda: None if group.rank else _save(fitter, out))
    labels = "numbers" if data.concept is None or data.concept.classes is None else f"{data.concept.classes:,} classes"
    return f"{out}: {how.method} of {data.rows:,} rows of {data.d:,} columns, {labels}"


def _require_place(out: Path, source: Source) -> None:
    if out.resolve() in {path.resolve() for files in source.inputs() for path in files}:
        raise ValueError(f"--out: {out} is one of the shards: choose another name")
    if out.is_dir():
        raise ValueError(f"--out: {out} is a folder: name a file, such as {out / 'eraser.safetensors'}")
    require_writable(out.parent, option="--out")


def _add(fitter: Fitter[Any], shards: Sequence[Shard], rows: int, checkpoint: Checkpoint, group: Group) -> None:
    """Add the shards to a fitter, but those that its checkpoint holds.

    Raises:
        OSError: a file cannot be read, or the checkpoint cannot be written.
        ValueError: a shard is damaged, or holds values that are not finite.
    """
    done = set(checkpoint.resume(fitter.statistics))
    with progress(shards, group, "fit") as bar:
        bar.update(sum(shard.x.rows for shard in shards if str(shard.x.path) in done))
        missing = [shard for shard in shards if str(shard.x.path) not in done]
        for batch in batches_of(missing, rows, bar):
            batch.named(functools.partial(fitter.update, batch.x, batch.z))
            if batch.is_last:
                checkpoint.shard_done(str(batch.shard.x.path), fitter.statistics)


def _save(fitter: Fitter[Any], out: Path) -> None:
    """Write the eraser as its `save` does, and remove the checkpoints of all processes, and of calls with more."""
    if isinstance(fitter, MomentsFitter):
        require_varying(fitter.moments)
    eraser = fitter.eraser
    drop_temporary_of(out)
    tensorfiles.write(out, eraser.tensors(), kind=type(eraser).__name__, remedy=REMEDY)
    for checkpoint in out.parent.glob(f".{glob.escape(out.name)}.*-of-*.partial"):
        checkpoint.unlink(missing_ok=True)


def _versions(shards: Sequence[Shard]) -> list[tuple[str, int, int]]:
    """Return the paths of all files, their sizes and the times when they were written."""
    paths = [column.path for shard in shards for column in (shard.x, shard.z) if column is not None]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
