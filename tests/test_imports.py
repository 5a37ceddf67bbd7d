"""Imports go one way, and nothing heavy is loaded before it is needed."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import efface

PACKAGE = Path(efface.__file__).parent
GROUND = {"files", "identity", "record", "metrics", "options", "extras", "devices", "tensorfiles", "processes", "hub"}
"""What anything may import; among themselves without a circle."""
ORDER = [
    *(
        "products",
        "moments",
        "newton",
        "softmax",
        "erasure",
        "unlearning",
        "representations",
        "decisions",
        "problem",
        "debiased",
    ),
    *("data", "models", "training", "methods", "evaluation", "runs", "cli", "export", "api"),
]
BESIDE = {
    "cache": set(),
    "optimal_transport": {"erasure"},
    "concept_erasure": {"erasure", "scrubbing"},
    "sklearn": {"erasure"},
    "embeddings": {"moments", "erasure"},
    "scrubbing": {"moments", "softmax", "erasure", "data", "evaluation"},
    "stereotypes": {"newton", "erasure", "data", "scrubbing"},
    "report": set(),
    "passport": {"cli"},  # where Hydra is installed: the command that repeats a run
    "verify": {"passport", *ORDER},
}


def imported(file: Path) -> set[str]:
    """Top-level rooms of efface that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "efface":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("efface.")}
    return rooms


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        assert imported(file) == set()
        return
    if room in GROUND:
        assert imported(file) <= GROUND
        return
    below = set(ORDER[: ORDER.index(room) + 1]) if room in ORDER else BESIDE[room] | {room}
    if room in ("data", "runs"):
        below.add("cache")
    if room in ("runs", "cli"):
        below |= {"scrubbing", "stereotypes"}
    if room in ("export", "api"):
        below |= {"passport"}
    assert imported(file) <= below | GROUND


def modules() -> dict[str, set[str]]:
    """Which module of efface imports which, lazily or not."""
    names = {}
    for file in PACKAGE.rglob("*.py"):
        parts = ("efface", *file.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph: dict[str, set[str]] = {}
    for name, file in names.items():
        targets = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "efface":
                targets |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
        graph[name] = (targets & names.keys()) - {name, "efface"}
    return graph


def test_imports_have_no_circle() -> None:
    graphlib.TopologicalSorter(modules()).prepare()


def loaded_by(code: str) -> set[str]:
    heavy = ("torch", "hydra", "wandb", "pandas", "matplotlib", "pydantic", "scipy", "sklearn", "transformers")
    script = f"import sys\n{code}\nprint(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parents[1]
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import efface", set()),
        ("import efface.report.__main__", {"pandas", "matplotlib", "pydantic"}),
        ("import efface.passport.__main__", {"pydantic"}),
        ("import efface.moments, efface.softmax, efface.erasure.leace", {"torch"}),
        ("import efface.embeddings.__main__", {"torch"}),
        ("import efface.unlearning.edits, efface.unlearning.layers", {"torch"}),
        ("import run", set()),
        ("import efface.cli.command", {"hydra"}),
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
