"""The names of `concept_erasure.oracle`."""

from efface.erasure.oracle import OracleEraser, OracleFitter

__all__ = ["OracleEraser", "OracleFitter"]
