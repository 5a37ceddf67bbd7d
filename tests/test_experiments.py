"""Every experiment file composes, has a page, and runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tests.conftest import CONF

from efface.record import Record

SMALL = {
    "certified_removal": ["method.removals=20"],
    "group_dro_celeba": ["model=resnet18", "model.pretrained=false", "dataset.resolution=32", "dataset.target=Smiling"],
}
"""What makes an experiment run here that takes long, or whose recipe is for a graphics processor."""
ELSEWHERE = {"bias_in_bios"}
"""Experiments whose data are the user's to bring; tests/data/test_bug.py runs this one on others."""
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_composes_and_its_page_has_the_command(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("config", overrides=[f"experiment={name}"]).dataset.name
    page = (CONF.parent / "experiments" / name / "README.md").read_text()
    assert "@@" not in page
    # `make reproduce` runs the first block of shell, which has to train and to report.
    block = page.partition("```sh\n")[2].partition("```")[0]
    assert f"experiment={name}" in block
    assert "python -m efface.report " in block


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with the data sets")
@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - ELSEWHERE))
def test_one_job_of_it_runs(name: str, tmp_path: Path) -> None:
    places = [f"results_dir={tmp_path / 'results'}", f"cache_dir={tmp_path / 'cache'}", "logger=none"]
    command = [sys.executable, "run.py", f"experiment={name}", "training.epochs=1", *SMALL.get(name, []), *places]
    subprocess.run(command, cwd=CONF.parent, check=True)
    (path,) = tmp_path.glob("results/**/record.json")
    assert Record.read(path).status == "done"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(path.name for path in (CONF.parent / "notebooks").glob("*.ipynb")))
def test_the_notebook_runs(name: str) -> None:
    notebook = CONF.parent / "notebooks" / name
    command = [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=900", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "-p", "no:xdist", str(notebook)], cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
