"""Kinds of runs that a configuration names, and cannot be made of its parts."""

import pytest
from hydra import compose, initialize_config_dir
from tests.conftest import CONF

from efface.cli.main import build
from efface.options import OptionError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efface.runs.scrubbing.ScrubbingRun", "run_class is ScrubbingRun, which takes for training LmTraining or NoT"),
        ("null", "run_class is null, but must be a string"),
        ("nothing", "run_class is 'nothing', but must be the name of a subclass of efface.runs.base.Run that"),
        ("nothing.at.All", "run_class is 'nothing.at.All', but must be the name"),
        ("efface.problem.Problem", "run_class is 'efface.problem.Problem', but must be the name"),
        ("efface.runs.grid.compute", "run_class is 'efface.runs.grid.compute', but must be the name"),
    ],
)
def test_run_class_that_does_not_fit_is_refused(name: str, message: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"run_class={name}", "logger=none"])
    with pytest.raises(OptionError, match=message):
        build(cfg)
