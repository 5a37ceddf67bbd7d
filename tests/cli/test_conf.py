"""What is read of the yaml files without Hydra is what Hydra composes of them."""

import pytest
from hydra import compose, initialize_config_dir
from tests.conftest import CONF

from efface.cli.conf import SHARED, file_options, groups, is_referred_to, option_files, root_of, settable
from efface.identity import NODES

ROOTS = {"config": CONF, "scrubbing": CONF / "scrubbing"}
OPTIONS = [
    (name, group, choice) for name, root in ROOTS.items() for group in NODES for choice in option_files(group, root)
]


@pytest.mark.parametrize(("name", "group", "choice"), OPTIONS)
def test_options_are_those_that_hydra_composes(name: str, group: str, choice: str) -> None:
    root = ROOTS[name]
    with initialize_config_dir(str(root), version_base="1.3"):
        composed = compose(name, overrides=[f"{group}={choice}"])[group]
    file = option_files(group, root)[choice]
    # A data set may set an option of another group, a model that of its training: those are not the file's own.
    assert set(map(str, composed)) == set(file_options(file, group, root))
    assert file_options(file, group, root)["_target_"] == composed["_target_"]
    assert file_options(file, group, root)["name"] == choice
    assert {"name", "_target_"}.isdisjoint(settable(file, group, root))


@pytest.mark.parametrize(("name", "root"), ROOTS.items())
def test_primary_configs_share_what_belongs_to_no_group(name: str, root: str) -> None:
    assert {*NODES, "logger", "experiment"} == set(groups(root_of(name)))
    assert root_of(name) == root
    with initialize_config_dir(str(root), version_base="1.3"):
        cfg = compose(name, return_hydra_config=True)
    assert file_options(SHARED / "run.yaml", "", root).keys() <= cfg.keys()
    assert set(option_files("logger", root)) == {"none", "wandb"}
    with initialize_config_dir(str(root), version_base="1.3"):
        slurm = compose(name, overrides=["hydra/launcher=slurm"], return_hydra_config=True)
    assert slurm.hydra.launcher._target_.endswith("SlurmLauncher")


def test_another_config_name_has_no_folder_of_its_own() -> None:
    assert root_of("") == root_of("mine") == root_of("../conf") == CONF


def test_keys_that_a_yaml_file_takes_values_from() -> None:
    assert is_referred_to("path")
    assert is_referred_to("erasure")
    assert not is_referred_to("metod")
