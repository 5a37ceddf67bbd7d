"""Whether a run, or an exported model, is what its record and its passport say.

`python -m efface.verify DIR` compares files, figures, pages and logits; `--data PATH` measures the model again.
"""

from efface.verify.check import Check
from efface.verify.verify import verify

__all__ = ["Check", "verify"]
