"""Concept scrubbing of language models: erase a concept from every layer, and see what the model loses.

    scrubber, loss = scrub(model, {"input_ids": ids, "pos": tags}, "pos", batch_size=8)
    with scrubber.scrub(model):
        model.generate(...)
    scrubber.save("scrubber.safetensors")
    scrubber.fold(model)  # or make it part of the weights

The names are those of EleutherAI's `concept_erasure`. What is different: paths are those of `named_modules`, with dots;
erasers act at every normalisation inside the blocks, never behind the last one; the states that an eraser is fitted on
are those of the model's own forward pass; a control of random subspaces keeps them for all tokens of a sequence.
"""

from efface.scrubbing.control import random_scrub, random_scrubber
from efface.scrubbing.families import FAMILIES, Family, Site, family_of
from efface.scrubbing.folding import fold
from efface.scrubbing.layerwise import scrub
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import UNLABELLED, TokenData, align, tokenise

__all__ = [
    "FAMILIES", "UNLABELLED", "ConceptScrubber", "Family", "Site", "TokenData", "align", "family_of", "fold",
    "random_scrub", "random_scrubber", "scrub", "tokenise",
]  # fmt: skip
