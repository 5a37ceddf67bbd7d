"""Python and the command line run the same by default: the yamls in conf name the defaults of the classes."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf
from tests.conftest import CONF

GROUPS = ("dataset", "model", "training", "method", "evaluation", "logger")
FILES = [
    file for root in (CONF, CONF / "scrubbing") for group in GROUPS for file in sorted((root / group).glob("*.yaml"))
]
FROM_THE_RUN = {"input_shape", "n_classes"}
"""Arguments of a model that the data set decides."""


def options(file: Path) -> tuple[dict[str, Any], set[str]]:
    """What a yaml says of its part, with what it inherits; and which of it is a variant's own, and may differ."""
    config: Any = OmegaConf.to_container(OmegaConf.load(file))
    group = file.parent.name
    node = config.get(group, {}) if file.read_text().startswith("# @package _global_") else config
    inherited, free = {}, set()
    for parent in config.get("defaults", []):
        if isinstance(parent, str) and (file.parent / f"{parent}.yaml").is_file():
            more, more_free = options(file.parent / f"{parent}.yaml")
            inherited, free = inherited | more, free | more_free
    said = {key: value for key, value in node.items() if key not in ("defaults", "name", "_partial_")}
    free = set() if "_target_" in said or "_target_" not in inherited else free | said.keys()
    return inherited | said, free


def plain(value: Any) -> Any:
    return list(map(plain, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_yaml_names_every_option_with_the_default_of_its_class(file: Path) -> None:
    said, free = options(file)
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(get_object(said.pop("_target_"))).parameters
    assert said.keys() == parameters.keys() - FROM_THE_RUN
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty and name in said.keys() - free
    }
    computed = {name for name in defaults if isinstance(said[name], str) and said[name].startswith("${")}
    differing = {
        name: (said[name], default)
        for name, default in defaults.items()
        if name not in computed and plain(said[name]) != plain(default)
    }
    assert differing == {}, "yaml and class"


@pytest.mark.parametrize(
    ("dataset", "fit_on", "reweigh"), [("colored_mnist_mini", "pairs", True), ("adult", "train", False)]
)
def test_erasers_take_the_default_of_the_data_set(dataset: str, fit_on: str, reweigh: bool) -> None:
    for overrides, expected in (
        ([], (fit_on, reweigh)),
        (["method.fit_on=train+pairs", "method.reweigh=false"], ("train+pairs", False)),
    ):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            method = compose("config", overrides=[f"dataset={dataset}", "method=leace", *overrides]).method
        assert (method.fit_on, method.reweigh) == expected


def test_data_set_need_not_know_of_erasure(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "new.yaml").write_text("name: new\n")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        search = f"hydra.searchpath=[file://{tmp_path}]"
        method = compose("config", overrides=[search, "dataset=new", "method=rlace"]).method
    assert (method.fit_on, method.reweigh, method.min_support) == ("train", False, 0.01)
