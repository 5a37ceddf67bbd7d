"""What a method does to a language model: erasers behind its layers, another output layer, or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from efface import tensorfiles
from efface.data.crows_pairs import SentencePair
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.scrubber import ConceptScrubber
from efface.stereotypes.queries import output_layer

_HEAD = "OutputLayer"


@dataclass(frozen=True)
class Intervention:
    """Erasers, and the weight of another output layer."""

    scrubber: ConceptScrubber = field(default_factory=ConceptScrubber)
    head: Tensor | None = None
    """`[V, d]`; None for that of the model."""
    seen: frozenset[SentencePair] = frozenset()
    """The pairs that it was fitted on."""
    info: dict[str, Any] = field(default_factory=dict)
    """For the record."""

    @contextmanager
    def on(self, lm: LanguageModel) -> Iterator[None]:
        """Put it in place within this context."""
        with self.scrubber.scrub(lm.model), other_head(lm, self.head):
            yield

    def save_head(self, path: Path) -> None:
        """Write the output layer to a file."""
        assert self.head is not None
        tensorfiles.write(path, {"weight": self.head}, kind=_HEAD)


@contextmanager
def other_head(lm: LanguageModel, weight: Tensor | None) -> Iterator[None]:
    """Replace the weight of the output layer within this context; embeddings that share it stay as they are."""
    if weight is None:
        yield
        return
    layer: Any = output_layer(lm)
    own = layer.weight
    layer.weight = nn.Parameter(weight.to(own), requires_grad=False)
    try:
        yield
    finally:
        layer.weight = own
