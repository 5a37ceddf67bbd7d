"""The names of `concept_erasure.scrubbing`."""

from efface.concept_erasure.scrubbing.random_scrub import random_scrub
from efface.scrubbing.layerwise import scrub

__all__ = ["random_scrub", "scrub"]
