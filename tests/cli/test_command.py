import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import OverrideParseException
from tests.conftest import CONF

from efface.cli.command import check_choices, config_name, flags_first, per_job, with_root
from efface.options import OptionError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("method=leace,rlace method.refit_head=true", "method=leace,rlace method.refit_head=choice(true)"),
        ("method.damping=[1,2] method=a,b", "method.damping=choice([1,2]) method=a,b"),
        ("method=choice(a,b) method.l2=1 seed=0", "method=choice(a,b) method.l2=choice(1) seed=0"),
        # What is no option of a swept group stays as it is.
        ("method=leace seed=0,1 method.refit_head=true", "method=leace seed=0,1 method.refit_head=true"),
        ("method=a,b method.l2=1,2 +method.x=1 method.z=", "method=a,b method.l2=1,2 +method.x=1 method.z="),
        ("method=a,b model.depth=1 --config-dir=x,y", "method=a,b model.depth=1 --config-dir=x,y"),
    ],
)
def test_options_of_a_swept_group_join_the_sweep(given: str, expected: str) -> None:
    for flag in ("-m", "--multirun", "hydra.mode=MULTIRUN"):
        assert per_job([flag, *given.split()]) == [flag, *expected.split()]


@pytest.mark.parametrize("several", ["method=none,leace", "seed=range(3)", "dataset.attributes=Male,Young"])
def test_several_values_ask_for_a_multirun(several: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(several)}: these are several values. Add -m to run each"):
        per_job(["model=mlp", several])
    one = ["method=leace", "method.damping=[1,2]", 'results_dir="a,b"', "~logger"]
    assert per_job(one) == one


@pytest.mark.parametrize("group", ["dataset", "model", "training", "method", "evaluation", "logger", "experiment"])
@pytest.mark.parametrize("value", ["null", "3", "default,null"])
def test_choice_that_is_no_name_is_refused(group: str, value: str) -> None:
    quoted = "3" if value == "3" else "null"
    with pytest.raises(OptionError, match=f"^{group} is {quoted}, but must be the name of one of its options: [a-z]"):
        check_choices([f"{group}={value}"], CONF)


def test_choices_that_are_names_pass() -> None:
    check_choices(["-m", "method=leace,none", "seed=null", "results_dir=3", "~logger", "method.rank=1"], CONF)


def test_flags_may_stand_anywhere() -> None:
    arguments = ["seed=0", "-m", "method=leace", "--config-name", "scrubbing", "~logger", "--cfg", "job"]
    assert flags_first(arguments) == [
        "-m",
        "--config-name",
        "scrubbing",
        "--cfg",
        "job",
        "seed=0",
        "method=leace",
        "~logger",
    ]


def test_arguments_outside_the_grammar_are_refused() -> None:
    with pytest.raises(OverrideParseException):
        per_job(["-m", "path=ü"])


def test_another_primary_config_brings_its_folder() -> None:
    assert config_name(["-m", "--config-name=scrubbing", "seed=0"]) == config_name(["-cn", "scrubbing"]) == "scrubbing"
    assert config_name(["method=leace"]) == ""
    assert with_root(["seed=0"], CONF) == ["seed=0"]
    assert with_root(["seed=0"], CONF / "scrubbing") == ["--config-path", str(CONF / "scrubbing"), "seed=0"]


@pytest.mark.parametrize(("several", "is_hinted"), [([], True), (["-m", "method=none", "seed=0"], False)])
def test_an_experiment_that_is_run_once_says_how_to_run_its_sweep(
    several: list[str], is_hinted: bool, tmp_path: Path
) -> None:
    places = [f"{name}={tmp_path / name}" for name in ("results_dir", "cache_dir")]
    small = ["experiment=erasers", "dataset=colored_mnist_mini", "dry_run=true", "logger=none", *places]
    command = [sys.executable, str(CONF.parent / "run.py"), *several, *small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    hint = "this is one run of a sweep over method, dataset.bias_ratio, seed: add -m to run all of them"
    assert (hint in done.stderr) is is_hinted
