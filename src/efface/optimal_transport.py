"""`efface.erasure.optimal_transport`, under the name that `concept_erasure` gives it."""

from efface.erasure.optimal_transport import is_positive_definite, ot_barycenter, ot_distance, ot_map, ot_midpoint

__all__ = ["is_positive_definite", "ot_barycenter", "ot_distance", "ot_map", "ot_midpoint"]
