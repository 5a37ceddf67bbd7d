"""The names of `concept_erasure.concept_scrubber`."""

from efface.scrubbing.scrubber import ConceptScrubber

__all__ = ["ConceptScrubber"]
