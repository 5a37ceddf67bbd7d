"""The names of `concept_erasure.leace`."""

from efface.erasure.leace import ErasureMethod, LeaceEraser, LeaceFitter

__all__ = ["ErasureMethod", "LeaceEraser", "LeaceFitter"]
