"""The names of `concept_erasure.shrinkage`."""

from efface.erasure.shrinkage import optimal_linear_shrinkage

__all__ = ["optimal_linear_shrinkage"]
