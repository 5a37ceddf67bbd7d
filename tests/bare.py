"""Interpreters in which only some of the installed distributions can be imported, as where no others are installed."""

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

HIDDEN = {hidden!r}
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def required(*extras: str) -> set[str]:
    """Distributions that `pip install efface[extras]` brings, with those that they require in turn."""
    lines = list(PYPROJECT["dependencies"])
    for extra in extras:
        lines += PYPROJECT["optional-dependencies"][extra]
    return _closure(Requirement(line) for line in lines)


def hiding(*extras: str) -> str:
    """Code that hides all modules but those of the standard library, of efface, and of what the extras bring."""
    known = required(*extras) | {"efface"}
    modules = metadata.packages_distributions()
    hidden = sorted(name for name, owners in modules.items() if known.isdisjoint(map(_normal, owners)))
    return HIDE.replace("{hidden!r}", repr(frozenset(hidden)))


def _closure(requirements: Iterable[Requirement]) -> set[str]:
    names: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = _normal(requirement.name)
        if name in names or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        names.add(name)
        try:
            waiting += [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
    return names


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
