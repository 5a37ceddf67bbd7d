"""The command line: `efface-run` where the package is installed, `python run.py` in a clone."""
