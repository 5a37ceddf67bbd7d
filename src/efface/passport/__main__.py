"""`python -m efface.passport RUN_DIR ...`: the passport of each run, written into its folder; or `schema`."""

import argparse
import sys
from pathlib import Path

from efface.passport.build import passport_of
from efface.passport.render import HTML, write
from efface.passport.schema import json_schema


def main(argv: list[str] | None = None) -> int:
    """Write passports, or print the schema. Returns the exit status: 1 if one could not be written."""
    parser = argparse.ArgumentParser(prog="python -m efface.passport", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folders of finished runs; or the word `schema`")
    runs = parser.parse_args(argv).runs
    if runs == ["schema"]:
        print(json_schema(), end="")
        return 0
    status = 0
    for run in map(Path, runs):
        try:
            write(passport_of(run), run)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            status = 1
        else:
            print(run / HTML)
    return status


if __name__ == "__main__":
    sys.exit(main())
