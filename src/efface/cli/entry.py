"""Where the command starts: `efface-run` of an installed package, and run.py of a clone."""

import sys

from efface.extras import require


def run() -> None:
    """Run what the command line asks for. Exits with 1 if it failed, and with 128 + n after signal n (Ctrl-C: 130)."""
    try:
        require("hydra", "pydantic", extra="grid", what="the command line")
    except ModuleNotFoundError as error:
        sys.exit(str(error))
    from efface.cli import command

    command.run()
