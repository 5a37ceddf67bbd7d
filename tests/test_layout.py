"""What keeps the code readable, counted: short files, short functions, names that say a thing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), ROOT / "run.py"])
FILES = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
LONGEST_FILE, LONGEST_BODY = 400, 45
NO_NAMES = {"of", "at", "told", "found"}
"""Locals that say a tense or a relation, and not a thing."""


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]


def locals_of(tree: ast.AST) -> set[str]:
    """Names that are assigned, looped over or taken as arguments; methods and attributes are no locals."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def test_test_files_have_names_of_their_own() -> None:
    """Without packages, pytest cannot collect two of one name; whether it has to depends on caches."""
    names = sorted(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert names == sorted(set(names))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_functions_are_short_and_locals_have_names(file: Path) -> None:
    long = {function.name: n for function in functions(file) if (n := body_lines(function)) > LONGEST_BODY}
    assert not long
    assert not locals_of(ast.parse(file.read_text())) & NO_NAMES
