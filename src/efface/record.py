"""What a run leaves behind: `record.json`, written last, whose presence means *finished*."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

SCHEMA_VERSION = 1
RECORD, ERROR = "record.json", "error.json"


class Record(BaseModel):
    """One run. Two runs are equal if their records without `run` are."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    id: str
    """See `efface.identity.run_id`."""
    config: dict[str, Any]
    """The resolved nodes of the identity."""
    seed: int
    fingerprint: str | None
    """Of the data files read; None if a run failed before it knew."""
    status: Literal["done", "not_applicable", "failed"]
    reason: str | None = None
    """Why it is not done."""
    metrics: dict[str, Any] = {}
    """On test."""
    metrics_ci: dict[str, Any] = {}
    """95 % confidence intervals `[low, high]` of some of them, the model held fixed."""
    val_metrics: dict[str, Any] = {}
    info: dict[str, Any] = {}
    """What the method says of itself."""
    artifacts: list[str] = []
    """Files beside the record."""
    run: dict[str, Any] = {}
    """All that may differ on repetition: seconds, memory, time, host, device, commit, versions, cache hits."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            ValueError: it is damaged or of another schema; the message names the file and what to do.
        """
        try:
            record = cls.model_validate_json(path.read_text())
        except (ValidationError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is damaged or of another version of efface: run its job again with overwrite=true ({error})"
            ) from error
        if record.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema version {record.schema_version}, but this is {SCHEMA_VERSION}: "
                "run its job again with overwrite=true"
            )
        return record

    def to_json(self) -> str:
        """Indented JSON; raises ValueError on NaN or infinite numbers, which JSON has no word for."""
        import json

        return json.dumps(self.model_dump(), indent=1, allow_nan=False) + "\n"
