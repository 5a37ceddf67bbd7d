"""The processes that `torchrun` has started, which share the shards."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


class SharedError(ValueError):
    """An error of one process, raised on all of them."""


@dataclass(frozen=True)
class Group:
    """This process and how many there are."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return those of `items` that fall to this process."""
        return items[self.rank :: self.size]

    def gather(self, call: Callable[[], T]) -> list[T]:
        """Call a function on every process, and return what it returned on each, by rank.

        All processes must call this. None waits for one that has failed.

        Raises:
            OSError, ValueError: from this process, if it is the only one.
            SharedError: the function raised one of these on a process; on all of them.
        """
        if self.size == 1:
            return [call()]
        from torch import distributed

        outcome: tuple[T | None, str | None]
        try:
            outcome = call(), None
        except (OSError, ValueError, ModuleNotFoundError) as error:
            outcome = None, str(error)
        outcomes = [outcome] * self.size
        distributed.all_gather_object(outcomes, outcome)
        for _, message in outcomes:
            if message is not None:
                raise SharedError(message)
        return [result for result, _ in outcomes]  # type: ignore[misc]


@contextmanager
def joined() -> Iterator[Group]:
    """Join the other processes that `torchrun` has started; without it there is this one alone.

    Raises:
        ValueError: something else than `torchrun` has set its variable of the number of processes.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        yield Group()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing or not size.isdecimal():
        raise ValueError(
            f"WORLD_SIZE is {size}, which torchrun sets, but without it ({', '.join(missing) or 'no number'}): start "
            "several processes by torchrun, or unset WORLD_SIZE for one"
        )
    from torch import distributed

    # A process waits for the others until their shards are done, which may take days. torchrun ends it if one dies.
    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield Group(distributed.get_rank(), int(size))
    finally:
        distributed.destroy_process_group()
