"""Concept scrubbing of language models: erase a concept from every layer, and measure what the model loses.

    scrubber, loss = scrub(model, {"input_ids": ids, "pos": tags}, "pos", batch_size=8)
    with scrubber.scrub(model):
        model.generate(...)
    scrubber.save("scrubber.safetensors")
    fold(scrubber, model)  # or make it part of the weights

The names are those of EleutherAI's `concept_erasure`. The differences: paths are those of `named_modules`, with dots;
erasers act at every normalisation inside the blocks, never behind the last one; an eraser is fitted on the states of
the model's real forward pass; the control of random subspaces uses the same ones for all tokens of a sequence.
"""

from efface.scrubbing.control import random_scrub, random_scrubber
from efface.scrubbing.families import FAMILIES, Family, Site, family_of
from efface.scrubbing.folding import fold
from efface.scrubbing.layerwise import scrub
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import UNLABELLED, TokenData, align, tokenise

__all__ = [
    "FAMILIES",
    "UNLABELLED",
    "ConceptScrubber",
    "Family",
    "Site",
    "TokenData",
    "align",
    "family_of",
    "fold",
    "random_scrub",
    "random_scrubber",
    "scrub",
    "tokenise",
]
