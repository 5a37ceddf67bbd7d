#!/usr/bin/env python
"""`efface-run` from a clone: `python run.py --help`."""

from efface.cli.entry import run

if __name__ == "__main__":
    run()
