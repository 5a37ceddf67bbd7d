"""`python -m efface.verify DIR`: whether a run, or an exported model, is what its record and its passport say."""

import argparse
import sys
from pathlib import Path

from efface.extras import require
from efface.files import file_digest
from efface.record import PASSPORT_FILES
from efface.verify.verify import TOLERANCE, verify


def main(argv: list[str] | None = None) -> int:
    """Print a line for each comparison. Returns 0 if nothing differs, 1 if something does, 2 if nothing can be read."""
    parser = argparse.ArgumentParser(prog="python -m efface.verify", description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path, help="of a run, or of an export")
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="folder of the data, or their one file: measure the model again"
    )
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="of trained base models (default: cache)")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"of what is measured again (default: {TOLERANCE})"
    )
    parser.add_argument(
        "--run-programs", action="store_true", help="run model.pt2 too, which can do whatever you can: if you trust it"
    )
    options = parser.parse_args(argv)
    try:
        require("pandas", "pydantic", "pyarrow", "jinja2", extra="grid", what="efface.verify")
        checks = []
        for check in verify(
            options.directory,
            data=options.data,
            cache_dir=options.cache,
            tolerance=options.tolerance,
            run_programs=options.run_programs,
        ):
            checks.append(check)
            print(check, flush=True)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    passport = options.directory / PASSPORT_FILES[0]
    if passport.is_file():
        print(f"{passport.name} has the SHA-256 {file_digest(passport)}: compare it with the one that you were told")
    differing = [check for check in checks if check.holds is False]
    print(f"{len(differing)} of {len(checks)} comparisons DIFFER" if differing else "nothing differs")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
