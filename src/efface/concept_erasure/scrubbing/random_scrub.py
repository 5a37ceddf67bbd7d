"""The names of `concept_erasure.scrubbing.random_scrub`."""

from efface.scrubbing.control import random_scrub

__all__ = ["random_scrub"]
