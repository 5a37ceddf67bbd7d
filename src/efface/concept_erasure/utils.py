"""The names of `concept_erasure.utils`."""

from efface.erasure.utils import assert_type

__all__ = ["assert_type"]
