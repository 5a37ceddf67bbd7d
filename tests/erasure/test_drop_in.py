"""Every public module and name of concept_erasure 0.2.4: here under the same path, or left out for a reason."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.erasure.test_leace import data

import efface
import efface.concept_erasure
import efface.scrubbing

ORIGINAL: dict[str, set[str]] = {
    "": {
        *("ConceptScrubber", "ErasureMethod", "GroupedTensor", "LeaceEraser", "LeaceFitter", "OracleEraser"),
        *("OracleFitter", "QuadraticEditor", "QuadraticEraser", "QuadraticFitter", "assert_type", "groupby"),
        "optimal_linear_shrinkage",
    },
    "caching": {"cached_property", "invalidates_cache"},
    "concept_scrubber": {"ConceptScrubber"},
    "groupby": {"GroupedTensor", "groupby", "invert_indices"},
    "leace": {"ErasureMethod", "LeaceEraser", "LeaceFitter"},
    "optimal_transport": {
        *("is_positive_definite", "ot_barycenter", "ot_distance", "ot_map", "ot_midpoint", "psd_sqrt"),
        "psd_sqrt_rsqrt",
    },
    "oracle": {"OracleEraser", "OracleFitter"},
    "quadratic": {"QuadraticEditor", "QuadraticEraser", "QuadraticFitter"},
    "scrubbing": {"patch_attention_", "random_scrub", "scrub"},
    "scrubbing.auto": {"patch_attention_", "scrub"},
    "scrubbing.llama": {"patch_attention_llama_", "scrub_llama"},
    "scrubbing.neox": {"patch_attention_neox_", "scrub_neox"},
    "scrubbing.random_scrub": {"random_scrub"},
    "shrinkage": {"optimal_linear_shrinkage", "trace"},
    "utils": {"T", "assert_type", "is_norm_layer", "mangle_module_path"},
}
"""The names that each module defines; of the package, those that it exports."""

LEFT_OUT = {
    "caching": {"cached_property", "invalidates_cache"},
    "groupby": {"invert_indices"},
    "optimal_transport": {"psd_sqrt", "psd_sqrt_rsqrt"},
    "scrubbing": {"patch_attention_"},
    "scrubbing.auto": {"patch_attention_", "scrub"},
    "scrubbing.llama": {"patch_attention_llama_", "scrub_llama"},
    "scrubbing.neox": {"patch_attention_neox_", "scrub_neox"},
    "shrinkage": {"trace"},
    "utils": {"T", "is_norm_layer", "mangle_module_path"},
}
"""docs/api.md gives the reasons."""

MEMBERS = {
    "LeaceEraser": {"fit", "P", "proj_left", "proj_right", "bias", "__call__"},
    "LeaceFitter": {"fit", "update", "eraser", "mean_x", "mean_z", "n", "sigma_xx", "sigma_xz"},
    "OracleEraser": {"fit", "coef", "mean_z", "__call__"},
    "OracleFitter": {"fit", "update", "eraser", "mean_x", "mean_z", "n", "sigma_zz", "sigma_xz"},
    "QuadraticEraser": {"fit", "class_means", "global_mean", "ot_maps", "optimal_transport", "__call__"},
    "QuadraticEditor": {"class_means", "ot_maps", "transport", "__call__"},
    "QuadraticFitter": {"fit", "update", "update_single", "editor", "eraser", "mean_x", "n", "sigma_xx"},
    "GroupedTensor": {"dim", "groups", "indices", "labels", "coalesce", "map", "__iter__"},
    "ConceptScrubber": {"scrub", "apply_hook", "erasers", "pre_hook"},
}
"""Public attributes and methods of the original's classes."""


def path(module: str, root: str = "efface.concept_erasure") -> str:
    return f"{root}.{module}" if module else root


@pytest.mark.parametrize("module", ORIGINAL)
def test_every_name_is_here_or_left_out(module: str) -> None:
    left_out = LEFT_OUT.get(module, set())
    there = ORIGINAL[module] - left_out
    if there:
        alias = importlib.import_module(path(module))
        assert set(alias.__all__) == there
        elsewhere = efface.scrubbing if module.startswith("scrubbing") else efface
        for name in there - {"is_positive_definite", "ot_barycenter", "ot_distance", "ot_map", "ot_midpoint"}:
            assert getattr(alias, name) is getattr(elsewhere, name)
        assert not any(hasattr(alias, name) for name in left_out)
    else:
        assert importlib.util.find_spec(path(module)) is None


def test_reasons_are_on_the_page() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text().partition("## Only for `concept_erasure`")[2]
    for module, names in ORIGINAL.items():
        assert not module or f"`{module}`" in text
        assert [name for name in names - {"T"} if f"`{name}`" not in text] == []


def test_list_is_that_of_the_original() -> None:
    spec = importlib.util.find_spec("concept_erasure")
    if spec is None or spec.origin is None:
        pytest.skip("concept_erasure is not installed")
    root, modules = Path(spec.origin).parent, {}
    for file in root.rglob("*.py"):
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = exported(ast.parse(file.read_text()), package=parts[-1] == "__init__")
    assert modules == ORIGINAL


def exported(tree: ast.Module, package: bool) -> set[str]:
    """Public names that a module defines, or that a package lists."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            assert isinstance(target, ast.Name)
            names |= set(ast.literal_eval(node.value)) if package else {target.id}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", MEMBERS)
def test_classes_have_the_members_of_the_original(name: str) -> None:
    x, _, y = data()
    kind = getattr(efface.concept_erasure, name)
    value: Any = kind
    if name.endswith("Fitter"):
        value = kind.fit(x, y)
    elif name == "ConceptScrubber":
        value = kind(pre_hook=True)
    fields = {field for base in kind.__mro__ for field in getattr(base, "__annotations__", {})}
    assert {member for member in MEMBERS[name] if not hasattr(value, member)} <= fields


def test_functions_are_not_hidden_by_the_modules_of_their_name() -> None:
    code = """
import efface.concept_erasure.groupby
import efface.concept_erasure.scrubbing.random_scrub
from efface.concept_erasure.groupby import groupby
from efface.concept_erasure.scrubbing.random_scrub import random_scrub
assert efface.concept_erasure.groupby is groupby is efface.groupby
assert efface.concept_erasure.scrubbing.random_scrub is random_scrub is efface.scrubbing.random_scrub
import sys
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_example_of_the_original_runs_after_a_change_of_its_import_line() -> None:
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression

    from efface.concept_erasure import LeaceEraser, LeaceFitter

    X, Y = make_classification(n_samples=2048, n_features=128, n_classes=2, random_state=42)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    assert abs(LogisticRegression(max_iter=1000).fit(X, Y).coef_).max() > 0.1
    eraser = LeaceEraser.fit(x, y)
    model = LogisticRegression(max_iter=1000, tol=1e-12).fit(eraser(x).numpy(), Y)
    assert abs(model.coef_).max() < 1e-4
    fitter = LeaceFitter(128, 1, dtype=x.dtype)
    for part, labels in zip(x.chunk(2), y.chunk(2), strict=True):
        fitter.update(part, labels)
    torch.testing.assert_close(fitter.eraser(x[0]), eraser(x[0]))
