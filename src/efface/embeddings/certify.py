"""Certify an eraser on shards: what a linear predictor can still read from them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from efface.embeddings.erasers import LoadedEraser
from efface.embeddings.group import Group
from efface.embeddings.shards import Batch, Shard, Source, Summary, batches_of, opened, progress, require_varying
from efface.erasure.certificate import Guardedness, certify_moments
from efface.moments import Moments


@dataclass(frozen=True)
class Certificate:
    """What remains of a concept in erased shards, and what was there before."""

    erased: Guardedness
    unerased: Guardedness
    tolerance: float

    @property
    def is_passed(self) -> bool:
        """Whether the whitened covariance that remains is within the tolerance."""
        return self.erased.whitened_covariance <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return {**dataclasses.asdict(self), "passed": self.is_passed}

    def __str__(self) -> str:
        lines = [f"{self.erased.n:,} rows of {self.erased.d:,} columns     erased  un-erased"]
        for name in ("whitened_covariance", "linear_gain"):
            words = name.replace("_", " ")
            before, after = getattr(self.unerased, name), getattr(self.erased, name)
            lines.append(f"{words:{len(lines[0]) - 21}}{after:>10.2g} {before:>10.2g}")
        sign = "<=" if self.is_passed else ">"
        verdict = "passed" if self.is_passed else "NOT passed"
        lines.append(f"{verdict}: whitened covariance {sign} {self.tolerance:g}")
        return "\n".join(lines)


def certify(source: Source, loaded: LoadedEraser, group: Group, *, tolerance: float) -> Certificate:
    """Certify an eraser on labelled shards, un-erased; the processes of a group share the shards.

    The erased rows are those that `apply` would write, rounded to the dtype of the shard.

    Cost: two products x.T @ x in float64, and what `apply` costs without writing.

    Raises:
        OSError: a file cannot be read.
        ValueError: a shard is wrong, or does not fit the eraser.
    """
    shards, data = opened(source, group, labelled=True)
    loaded.require_width(data)
    data.require_contrast()
    assert data.concept is not None
    k = data.concept.width if data.concept.classes is None else max(data.concept.classes, 2)
    before, after = (Moments(data.d, k, dtype=torch.float64) for _ in range(2))
    group.gather(lambda: _add(shards, loaded, data, before, after, group))
    if group.size > 1:
        before.all_reduce()
        after.all_reduce()
    require_varying(before)
    return Certificate(certify_moments(before, after), certify_moments(before, before), tolerance)


def _add(
    shards: list[Shard], loaded: LoadedEraser, data: Summary, before: Moments, after: Moments, group: Group
) -> None:
    """Add the shards of this process to both moments."""

    def add(batch: Batch) -> None:
        assert batch.z is not None
        z = (
            batch.z.flatten()
            if data.concept and data.concept.classes is not None
            else batch.z.reshape(len(batch.x), -1)
        )
        before.update(batch.x.double(), z)
        after.update(loaded.erase(batch.x, batch.z).double(), z)

    with progress(shards, group, "certify") as bar:
        for batch in batches_of(shards, data.batch, bar):
            batch.named(lambda: add(batch))  # noqa: B023 - called at once
