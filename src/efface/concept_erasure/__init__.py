"""The modules and names of EleutherAI's `concept_erasure` 0.2.4, so that code written for it runs here.

Write `efface.concept_erasure` for `concept_erasure` in its import lines. `efface.erasure` lists what behaves otherwise,
and docs/api.md the few names that are left out. New code imports from `efface` and `efface.scrubbing`.
"""

# From the modules of this package: as in the original, the function then hides the module `groupby`, also where that is
# imported later.
from efface.concept_erasure.concept_scrubber import ConceptScrubber
from efface.concept_erasure.groupby import GroupedTensor, groupby
from efface.concept_erasure.leace import ErasureMethod, LeaceEraser, LeaceFitter
from efface.concept_erasure.oracle import OracleEraser, OracleFitter
from efface.concept_erasure.quadratic import QuadraticEditor, QuadraticEraser, QuadraticFitter
from efface.concept_erasure.shrinkage import optimal_linear_shrinkage
from efface.concept_erasure.utils import assert_type

__all__ = [
    "ConceptScrubber",
    "ErasureMethod",
    "GroupedTensor",
    "LeaceEraser",
    "LeaceFitter",
    "OracleEraser",
    "OracleFitter",
    "QuadraticEditor",
    "QuadraticEraser",
    "QuadraticFitter",
    "assert_type",
    "groupby",
    "optimal_linear_shrinkage",
]
