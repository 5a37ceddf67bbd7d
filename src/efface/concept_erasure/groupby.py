"""The names of `concept_erasure.groupby`."""

from efface.erasure.groupby import GroupedTensor, groupby

__all__ = ["GroupedTensor", "groupby"]
