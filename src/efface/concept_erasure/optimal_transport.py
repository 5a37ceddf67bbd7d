"""The names of `concept_erasure.optimal_transport`."""

from efface.erasure.optimal_transport import is_positive_definite, ot_barycenter, ot_distance, ot_map, ot_midpoint

__all__ = ["is_positive_definite", "ot_barycenter", "ot_distance", "ot_map", "ot_midpoint"]
