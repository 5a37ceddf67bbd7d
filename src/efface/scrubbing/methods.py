"""Methods of a scrubbing run: nothing, an eraser at every layer, or the same number of random directions."""

from typing import Annotated, Literal, Protocol

from efface.erasure.affine import AffineEraser
from efface.erasure.inlp import InlpEraser
from efface.erasure.leace import ErasureMethod
from efface.options import Ge, Gt, Lt, options
from efface.scrubbing.control import random_scrubber
from efface.scrubbing.families import family_of
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.layerwise import StatesOption, scrub
from efface.scrubbing.measure import states_behind
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import TokenData


class ScrubMethod(Protocol):
    """A class of `options`."""

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        """Fit erasers for the layers of the model, on train alone."""
        ...


@options
class NoScrubbing:
    """Leaves the model unchanged."""

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        return ConceptScrubber()


@options
class Scrubbing:
    """Puts an eraser behind every normalisation, fitted layer by layer; options as for `efface.scrubbing.scrub`.

    With `layer`, in one block alone: what the loss rises by tells how much that block makes of the concept (amnesic
    probing; Elazar et al., 2021). Where normalisations come first in a block, the states that pass it by keep it.
    """

    method: ErasureMethod = "leace"
    affine: bool = True
    sublayers: bool = True
    rtol: Annotated[float, Gt(0), Lt(1)] = 1e-4
    shrinkage: bool | Literal["correlation"] = True
    states: StatesOption = "memory"
    layer: Annotated[int, Ge(0)] | None = None

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        scrubber, _ = scrub(
            lm.model,
            train.columns(),
            "z",
            self.affine,
            batch_size,
            self.method,
            self.sublayers,
            rtol=self.rtol,
            shrinkage=self.shrinkage,
            layer=self.layer,
            states=self.states,
            with_loss=False,
            progress=progress,
        )
        assert scrubber is not None
        return scrubber


@options
class RandomScrubbing:
    """Removes random directions, the same for every token. They depend on the seed.

    Args:
        rank: number of directions; None for one fewer than there are labels on train, as the erasers remove.
        sublayers: see `efface.scrubbing.scrub`.
    """

    rank: Annotated[int, Ge(0)] | None = None
    sublayers: bool = True

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        rank = len(train.z[train.z >= 0].unique()) - 1 if self.rank is None else self.rank
        return random_scrubber(lm.model, rank, seed=seed, sublayers=self.sublayers)


@options
class InlpScrubbing:
    """Projects the directions of linear predictors off the states that the model's output layer reads.

    Iterative nullspace projection (Ravfogel et al., 2020), on the last states as Meade et al. (2022) have it. Here the
    predictors see single labelled tokens, as `Scrubbing` does, and not means over sentences.

    Args:
        iterations: predictors, one after the other.
    """

    iterations: Annotated[int, Ge(1)] = 10

    def fit(
        self, lm: LanguageModel, train: TokenData, *, seed: int, batch_size: int, progress: bool
    ) -> ConceptScrubber:
        path = family_of(lm.model).output(lm.model)
        labelled = (train.z >= 0) & (train.attention_mask > 0)
        states = states_behind(
            lm, ConceptScrubber(), train, [path], batch_size=batch_size, tokens=labelled, progress=progress
        )
        eraser = InlpEraser.fit(states[path], train.z[labelled], iterations=self.iterations)
        plain = AffineEraser(eraser.proj_left, eraser.proj_right, eraser.bias)  # the kind that a scrubber saves
        return ConceptScrubber(erasers={path: plain})
