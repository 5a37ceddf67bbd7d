"""What a run does to a language model: nothing, an eraser at every layer, or as many random directions."""

from dataclasses import dataclass
from typing import Literal, Protocol

from efface.erasure.leace import ErasureMethod
from efface.scrubbing.control import random_scrubber
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.layerwise import StatesOption, scrub
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import TokenData


class ScrubMethod(Protocol):
    """A frozen keyword-only dataclass that checks its options when it is made."""

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        """Erasers for the layers of the model, from train alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoScrubbing:
    """The model as it is."""

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        return ConceptScrubber()


@dataclass(frozen=True, kw_only=True)
class Scrubbing:
    """An eraser behind every normalisation, fitted layer by layer; arguments as for `efface.scrubbing.scrub`."""

    method: ErasureMethod = "leace"
    affine: bool = True
    sublayers: bool = True
    rtol: float = 1e-4
    shrinkage: bool | Literal["correlation"] = True
    states: StatesOption = "memory"

    def __post_init__(self) -> None:
        if self.method not in ("leace", "orth"):
            raise ValueError(f"method is {self.method!r}, but must be 'leace' or 'orth'")
        if self.states not in ("memory", "disk", "recompute"):
            raise ValueError(f"states is {self.states!r}, but must be 'memory', 'disk' or 'recompute'")

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        scrubber, _ = scrub(
            lm.model, train.columns(), "z", self.affine, batch_size, self.method, self.sublayers,
            rtol=self.rtol, shrinkage=self.shrinkage, states=self.states, progress=progress,
        )  # fmt: skip
        assert scrubber is not None
        return scrubber


@dataclass(frozen=True, kw_only=True)
class RandomScrubbing:
    """Random directions, the same for every token; another seed, other directions.

    Args:
        rank: how many; None for one fewer than there are labels on train, which is what the erasers remove.
        sublayers: see `efface.scrubbing.scrub`.
    """

    rank: int | None = None
    sublayers: bool = True

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        rank = len(train.z[train.z >= 0].unique()) - 1 if self.rank is None else self.rank
        return random_scrubber(lm.model, rank, seed=seed, sublayers=self.sublayers)
