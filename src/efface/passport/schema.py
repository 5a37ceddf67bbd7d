"""What a passport holds, as a published JSON schema: docs/passport.schema.json."""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

SCHEMA_VERSION = 2


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Subject(_Part):
    """Which model this is."""

    run: str
    """The run's id; see `efface.identity.run_id`."""
    seed: int
    dataset: str
    model: str
    training: str
    method: str
    attribute: str
    """What was to be removed, in the data set's words where they are known."""
    attribute_values: int | None
    """How many values it has; null where the record does not tell."""
    attribute_entropy: float | None
    """Bits that the attribute holds on test: what a perfect reader would read. Null where the record does not tell."""
    uses_attribute_at_test: bool
    """Whether the model needs the attribute of whoever it is applied to."""
    head: str | None
    """Whether the classifier on the features is the base model's (`kept`) or a new one (`fitted`)."""


class Condition(_Part):
    """What a guarantee rests on."""

    statement: str
    holds: bool | None
    """Null where nobody can tell from a run, such as whether requests were made without a look at the model."""


Kind = Literal["none", "linear", "quadratic", "by construction", "certified removal"]


class Guarantee(_Part):
    """What is proven, and of what."""

    kind: Kind
    statement: str
    """In plain words; of kind `none`, why there is no guarantee."""
    theorem: str | None = None
    """What proves it, with its source."""
    conditions: tuple[Condition, ...] = ()


class Certificate(_Part):
    """The numbers of a certified removal of training samples."""

    valid: bool
    reason: str | None
    """Why it is not valid."""
    epsilon: float
    delta: float
    removed: int
    """Training samples that were removed."""
    remaining: int
    """Samples that are left."""
    residual: float | None
    """Gradient norm that the training objective was minimised to."""
    noise: float | None
    """Standard deviation of the noise on every weight."""
    spent: str
    """How much of it this release uses."""
    composition: str
    """What several releases together amount to."""


class Figure(_Part):
    """One metric."""

    key: str
    heading: str
    meaning: str
    better: Literal["higher", "lower", "zero", "one", ""]
    """Which side is better, or which value is fair; empty if neither."""
    split: str
    """`test`, `half of test` for probes, which are trained on the other half, or `fitted on`."""
    n: int | None
    """Samples of that; null where the run does not tell."""
    value: float | None
    interval: tuple[float, float] | None = None
    """95 %, by the bootstrap over the samples of the split, or whole people where data name them; the model is held
    fixed."""
    parts: dict[str, float | None] = {}
    """By group `y=…,a=…` or label, of a metric that has a value for each; `value` is then null."""
    reason: str | None = None
    """Why the value is null."""
    base: float | None = None
    """The same metric of the base model, before anything was removed; null where it is not known."""
    base_interval: tuple[float, float] | None = None
    base_parts: dict[str, float | None] = {}

    @property
    def per_group(self) -> bool:
        """Whether `parts` are of groups, and not of labels."""
        return any("," in name for name in self.parts)


class Base(_Part):
    """The base model that figures are compared with: `method=none` with the same configuration and seed."""

    known: bool
    run: str | None = None
    """Its id."""
    record: str | None = None
    """SHA-256 of its record."""
    reason: str | None = None
    """Why it is not known."""


class Data(_Part):
    """On which data it was made."""

    fingerprint: str
    """Of the files read: the data, and a pretrained model."""
    options: dict[str, Any]
    """Those of the data set."""
    n_test: int | None
    n_fit: int | None
    """Samples that the method was fitted on; null if on none, or where the run does not tell."""
    n_effective: float | None
    """How many unweighted samples their weights are worth."""
    test_groups: dict[str, int]
    """Samples of each group of label and attribute on test, by `y=…,a=…`: the numbers of both."""
    names: dict[str, str]
    """What labels `y=…` and groups `y=…,a=…` are in the data's words, such as `income=>50K, sex=Male`; empty where the
    data have none."""


class Origin(_Part):
    """How it was made."""

    command: str | None
    """That repeats the run, without directories; null where it was made from Python."""
    commit: str | None
    """Of the code; with `+` if there were changes on top."""
    versions: dict[str, str]
    """Of packages."""
    device: str | None
    processor: str | None
    threads: int | None
    platform: str | None
    finished: str | None
    configuration: dict[str, Any]
    """The resolved nodes: data set, model, training, method, evaluation."""
    record: str
    """SHA-256 of the record that all figures are taken from."""


class Passport(_Part):
    """What is known of one debiased model."""

    schema_version: int = SCHEMA_VERSION
    written_by: str
    """The version of efface that wrote it and its pages."""
    subject: Subject
    removed: str
    """What was done to the model, in one sentence."""
    guarantee: Guarantee
    not_guaranteed: tuple[str, ...]
    """What does not follow, with numbers."""
    certificate: Certificate | None
    figures: tuple[Figure, ...]
    base: Base
    data: Data
    origin: Origin
    files: dict[str, str]
    """SHA-256 of each file beside the passport that it speaks of, by name."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `passport.json`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged or of another schema; the message names the file and what to do.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["schema_version"]
        except FileNotFoundError:
            raise
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path} is no passport ({error!r}): write it again with python -m efface.passport RUN_DIR"
            ) from error
        if version != SCHEMA_VERSION:
            raise ValueError(_other_schema(path, version))
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ValueError(
                f"{path} is damaged: write it again with python -m efface.passport RUN_DIR ({error})"
            ) from error

    def to_json(self) -> str:
        """Return indented JSON.

        Raises:
            ValueError: a number is NaN or infinite, which JSON has no word for.
        """
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def json_schema() -> str:
    """Return the JSON schema of a passport, as docs/passport.schema.json has it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Passport.model_json_schema()}
    schema["properties"]["schema_version"] |= {"const": SCHEMA_VERSION}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _other_schema(path: Path, version: object) -> str:
    is_later = isinstance(version, int) and version > SCHEMA_VERSION
    age = "a later" if is_later else "another"
    remedy = (
        "install the version that wrote it (pip install --upgrade efface)"
        if is_later
        else "write it again with python -m efface.passport RUN_DIR"
    )
    return f"{path} has schema version {version!r}, of {age} efface, but this one reads {SCHEMA_VERSION}: {remedy}"
