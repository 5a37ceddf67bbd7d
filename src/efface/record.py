"""What a run leaves behind: `record.json`, written last, whose presence means *finished*."""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

SCHEMA_VERSION = 2
READABLE = (1, 2)
"""Schema versions that a report can read. Version 1 hashed class paths into the id, and kept them in `config`."""
RECORD, ERROR = "record.json", "error.json"
PASSPORT_PAGE = "passport.html"
PASSPORT_FILES = ("passport.json", "passport.md", PASSPORT_PAGE)
"""What `efface.passport` leaves beside a record. They are no artefacts of it: they speak of it."""


class Record(BaseModel):
    """One run. Two runs are equal if their records without `run` are.

    On machines of another kind, and with another number of threads, metrics differ from about the sixth digit on, those
    of trained networks by more, and so do the artefacts' digests.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    id: str
    """See `efface.identity.run_id`."""
    config: dict[str, Any]
    """The nodes of the identity, see `efface.identity.identity`."""
    seed: int
    fingerprint: str | None
    """Fingerprint of the files read: the data, and a pretrained model; None if the run failed before computing it."""
    status: Literal["done", "not_applicable", "failed"]
    reason: str | None = None
    """Why the run is not done."""
    metrics: dict[str, Any] = {}
    """Metrics on test."""
    metrics_ci: dict[str, Any] = {}
    """95 % confidence intervals `[low, high]` of some of them, with the model held fixed."""
    val_metrics: dict[str, Any] = {}
    """Metrics on val."""
    info: dict[str, Any] = {}
    """What the run reports beside metrics, such as why one is null."""
    artifacts: dict[str, str | None] = {}
    """SHA-256 of each file beside the record, by name; None where a list of names stands, as in version 1."""
    run: dict[str, Any] = {}
    """All that may differ on repetition: seconds, memory, time, host, device, commit, versions, cache hits."""

    @field_validator("artifacts", mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        return dict.fromkeys(value) if isinstance(value, list) else value

    @field_validator("artifacts")
    @classmethod
    def _beside_the_record(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        outside = [name for name in value if name in ("", ".", "..") or "/" in name or "\\" in name]
        if outside:
            raise ValueError(f"artefacts are files beside the record, but {outside[0]!r} is not")
        return value

    @classmethod
    def read(cls, path: Path, *, versions: tuple[int, ...] = (SCHEMA_VERSION,)) -> Self:
        """Read a record.

        Args:
            path: the file.
            versions: schema versions that will do; a report takes `READABLE`.

        Raises:
            ValueError: the record is damaged or of another schema; the message names the file and what to do.
        """
        try:
            record = cls.model_validate_json(path.read_text())
        except (ValidationError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is damaged or of another version of efface: run its job again with overwrite=true ({error})"
            ) from error
        if record.schema_version not in versions:
            age = "an earlier" if record.schema_version < SCHEMA_VERSION else "a later"
            raise ValueError(
                f"{path} has schema version {record.schema_version}, of {age} efface, but this is {SCHEMA_VERSION}: "
                "move it elsewhere, or replace it by running its job again with overwrite=true"
            )
        return record

    def to_json(self) -> str:
        """Return indented JSON.

        Raises:
            ValueError: a number is NaN or infinite, which JSON has no word for.
        """
        return json.dumps(self.model_dump(), indent=1, allow_nan=False) + "\n"
