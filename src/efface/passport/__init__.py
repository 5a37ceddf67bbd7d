"""The passport of a debiased model: what was removed from it, what is guaranteed and what is not, and every number.

`passport_of(run_dir)` makes it from what a run left; `write(passport, folder)` writes `passport.json` and its pages.
`python -m efface.passport RUN_DIR` does both, and `python -m efface.passport schema` prints the JSON schema. Loads no
torch.
"""

from efface.passport.build import passport_of
from efface.passport.render import digests, write
from efface.passport.schema import SCHEMA_VERSION, Passport

__all__ = ["SCHEMA_VERSION", "Passport", "digests", "passport_of", "write"]
