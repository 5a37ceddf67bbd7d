"""The names of `concept_erasure.quadratic`."""

from efface.erasure.quadratic import QuadraticEditor, QuadraticEraser, QuadraticFitter

__all__ = ["QuadraticEditor", "QuadraticEraser", "QuadraticFitter"]
