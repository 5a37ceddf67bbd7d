"""Imports go one way, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import efface

PACKAGE = Path(efface.__file__).parent
ORDER = [
    *("moments", "softmax", "erasure", "unlearning", "data"),
    *("models", "training", "methods", "evaluation", "job", "experiment", "scrub_experiment"),
]
BESIDE = {
    "identity": set(),
    "record": set(),
    "options": set(),
    "cache": set(),
    "tracking": {"record"},
    "optimal_transport": {"erasure"},
    "sklearn": {"erasure"},
    "scrubbing": {"moments", "erasure", "data"},
    "report": {"identity", "record"},
}


def imported(file: Path) -> set[str]:
    """Top-level rooms of efface that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "efface":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("efface.")}
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        assert imported(file) == set()
        return
    below = set(ORDER[: ORDER.index(room) + 1]) if room in ORDER else BESIDE[room] | {room}
    if room == "data":
        below.add("cache")
    if room in ("job", "experiment", "scrub_experiment"):
        below |= set(BESIDE) - {"report"}
    assert imported(file) <= below


def loaded_by(code: str) -> set[str]:
    heavy = ("torch", "hydra", "wandb", "pandas", "matplotlib")
    script = f"import sys\n{code}\nprint(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parents[1]
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import efface", set()),
        ("import efface.report.__main__", {"pandas", "matplotlib"}),
        ("import efface.moments, efface.softmax, efface.erasure.leace", {"torch"}),
        ("import efface.unlearning.fmd, efface.unlearning.layers", {"torch"}),
        ("import run", {"hydra"}),
    ],
)
def test_nothing_heavy_is_loaded(code: str, allowed: set[str]) -> None:
    assert loaded_by(code) <= allowed


def test_public_names_resolve() -> None:
    assert set(efface.__all__) >= {"LeaceEraser", "LeaceFitter", "Moments", "fit_softmax", "load"}
    for name in efface.__all__:
        assert getattr(efface, name) is not None
    with pytest.raises(AttributeError):
        _ = efface.nonsense
