"""The base model of a finished run, read again."""

from collections.abc import Callable, Mapping
from typing import Any

from efface import cache
from efface.runs.extraction import Extraction
from efface.runs.grid import GridRun
from efface.runs.session import Session
from efface.runs.tracking import NoTracker


class _Reading(Session):
    """An execution that trains nothing.

    Args:
        repeat: the command that trains the model.
        options: those of a `Session`.
    """

    def __init__(self, *, repeat: str, **options: Any) -> None:
        super().__init__(**options)
        self._repeat = repeat

    def cached(self, kind: str, key: Mapping[str, Any], build: Callable[[], cache.Entry]) -> cache.Entry:
        def missing() -> cache.Entry:
            raise FileNotFoundError(
                f"the {kind} of this run is not in the cache ({self._cache_dir.absolute()}): name its cache with "
                f"--cache-dir, or make it again with {self._repeat} overwrite=true"
            )

        return super().cached(kind, key, missing)


def base_model(run: GridRun, *, repeat: str) -> Extraction:
    """Return the base model of a run with the data that it read: the model as it was trained, from the cache.

    Args:
        run: a finished one.
        repeat: the command of that run, for the message.

    Raises:
        FileNotFoundError: the model is no longer in the cache; the message says how to make it again.
    """
    session = _Reading(
        repeat=repeat,
        device=run.device,
        cache_dir=run.cache_dir,
        tracker=NoTracker(),
        progress=False,
        say=lambda message: None,
    )
    return run.prepare(session)[0]
