"""Checkpoints of statistics: sums as they are, to the last bit, and the shards that they hold."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface import tensorfiles
from efface.files import digest, drop_temporary_of
from efface.moments import Moments

_KIND = "embeddings checkpoint"


class Checkpoint:
    """A file that holds statistics between calls of a command.

    Args:
        path: the file.
        settings: JSON-able; all that the statistics depend on. A file of other settings is not continued from.
        seconds: how often to write it, at ends of shards.
        remedy: of errors of writing, see `efface.files.write_atomically`.
    """

    def __init__(self, path: Path, settings: Any, seconds: float, *, remedy: str) -> None:
        self.path, self.seconds, self._remedy = path, seconds, remedy
        self._settings = digest(json.dumps(settings, sort_keys=True).encode())
        self._written = time.monotonic()
        self._done: list[str] = []

    def resume(self, statistics: Sequence[Moments]) -> list[str]:
        """Fill statistics that have seen nothing with those of the file, and return the shards that they hold.

        Without a file, or with one that is damaged or of other settings, they stay empty.
        """
        drop_temporary_of(self.path)
        try:
            tensors, facts = tensorfiles.read(self.path, kind=_KIND)
        except (FileNotFoundError, ValueError):
            return []
        if facts.get("settings") != self._settings:
            return []
        for i, moments in enumerate(statistics):
            state = {name.partition(".")[2]: t for name, t in tensors.items() if name.partition(".")[0] == str(i)}
            vars(moments).update(state, count=int(state.pop("count")))
        self._done = list(facts["done"])
        return list(self._done)

    def shard_done(self, name: str, statistics: Sequence[Moments]) -> None:
        """Note that the statistics hold another shard, and write them if it is time.

        Raises:
            OSError: the disk is full or read-only.
        """
        self._done.append(name)
        if time.monotonic() - self._written < self.seconds:
            return
        tensors = {f"{i}.{name}": t for i, moments in enumerate(statistics) for name, t in _state(moments).items()}
        facts = {"settings": self._settings, "done": self._done}
        tensorfiles.write(self.path, tensors, kind=_KIND, facts=facts, remedy=self._remedy)
        self._written = time.monotonic()


def _state(moments: Moments) -> dict[str, Tensor]:
    """Return what changes in an accumulator while it adds batches."""
    tensors = {name: value for name, value in vars(moments).items() if isinstance(value, Tensor)}
    return {**tensors, "count": torch.tensor(moments.count)}
