"""What an installed package has: a light core, extras that say what is missing, and the command with its conf."""

import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from tests.bare import PYPROJECT, hiding, required
from tests.conftest import CONF

from efface.extras import is_installed
from efface.runs import base
from efface.runs.grid import GridRun

ROOT = CONF.parent
CORE = """
import sys
from pathlib import Path

import torch
from torch import nn

import efface

run, folder = Path(sys.argv[1]), Path(sys.argv[2])
for name in efface.__all__:
    getattr(efface, name)

g = torch.Generator().manual_seed(0)
y = torch.arange(300) % 2
x = torch.randn(300, 6, generator=g) + 2.0 * y[:, None] * torch.eye(6)[0]
eraser = efface.LeaceEraser.fit(x, y)
eraser.save(folder / "eraser")
clean = efface.LeaceEraser.load(folder / "eraser")(x)
assert (clean[y == 1].mean(0) - clean[y == 0].mean(0)).abs().max() < 1e-4
assert efface.RlaceEraser.fit(x, y, rank=1).P.shape == (6, 6)
assert efface.InlpEraser.fit(x, y, iterations=2)(x).shape == x.shape
assert efface.certify(eraser, x, y).linear_gain < 1e-3
debiased, minimum = efface.debias_head(nn.Linear(6, 2), x, y, x_cf=x.flip(1), y_cf=y)
assert minimum.converged
model = efface.CertifiedLogisticRegression(lam=1e-2, epsilon=1.0, delta=1e-4).fit(x, y)
assert model.remove([3, 17]).removed == 2
assert model.release().certificate.n == 298
saved = efface.load(run)
assert saved(torch.zeros(1, saved.head.in_features)).shape == (1, 10)
print("done")
"""


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


def test_core_needs_five_distributions() -> None:
    names = {line.partition(">")[0] for line in PYPROJECT["dependencies"]}
    assert names == {"torch", "numpy", "safetensors", "lazy-loader", "tqdm"}
    assert required().isdisjoint({"hydra-core", "pandas", "pydantic", "scikit-learn", "scipy", "wandb", "torchvision"})


def test_core_works_where_nothing_else_is_installed(parts_of: Callable[..., GridRun], tmp_path: Path) -> None:
    run = parts_of("method=leace", "evaluation.mlp_probe=false", "evaluation.bootstrap=0", "training.epochs=1")
    base.execute(run, say=lambda message: None)
    done = python(hiding() + CORE, run.directory, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.mark.parametrize(
    ("code", "installed_extras", "extra"),
    [
        ("import efface.sklearn", (), "sklearn"),
        ("import efface.report.__main__", (), "report"),
        ("import efface.methods.leace", (), "grid"),
        ("from efface.cli.entry import run; run()", (), "grid"),
        ("import efface; efface.audit(None, None)", (), "grid"),
        ("from efface.export.__main__ import export; export(None, 'onnx')", (), "grid"),
        ("from efface.export import onnx; onnx.write(None, None)", ("grid",), "export"),
        ("from efface.export import estimator; estimator.write(None, None)", ("grid",), "export"),
        ("from efface.scrubbing.language_models import require_transformers as r; r()", ("grid",), "scrub"),
    ],
)
def test_missing_extra_is_named(code: str, installed_extras: tuple[str, ...], extra: str) -> None:
    done = python(hiding(*installed_extras) + code)
    assert done.returncode == 1
    assert f"pip install 'efface[{extra}]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["logger=wandb"], "wandb"),
        (["dataset=adult", "data_dir=nowhere"], "adult"),
        (["dataset=celeba"], "vision"),
        (["dataset=table", "dataset.path=a.csv", "dataset.target=y", "dataset.protected=[a]"], "table"),
        (["dataset=bias_in_bios"], "scrub"),
    ],
)
def test_missing_extra_of_an_option_is_named(arguments: list[str], extra: str, tmp_path: Path) -> None:
    done = python(hiding("grid") + "from efface.cli.entry import run; run()", *arguments, f"results_dir={tmp_path}")
    assert done.returncode == 1
    assert f"pip install 'efface[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_default_logger_is_none_where_wandb_is_missing() -> None:
    show = "from efface.cli.entry import run; run()"
    loggers = {}
    for extras in (("grid",), ("grid", "wandb")):
        shown = python(hiding(*extras) + show, "--cfg", "job", "-p", "logger").stdout
        loggers[extras] = yaml.safe_load(shown.partition("\n")[2])["_target_"].rpartition(".")[2]
    assert loggers == {("grid",): "NoTracker", ("grid", "wandb"): "Wandb"}


def test_folder_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wanda").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("wanda")
    (tmp_path / "wanda" / "__init__.py").touch()
    assert is_installed("wanda")


@pytest.mark.parametrize("extra", ["scrub", "sklearn"])
def test_library_extra_suffices(extra: str) -> None:
    module = {"scrub": "efface.scrubbing.language_models", "sklearn": "efface.sklearn"}[extra]
    done = python(hiding(extra) + f"import {module}")
    assert done.returncode == 0, done.stderr


def test_report_extra_suffices(parts_of: Callable[..., GridRun], tmp_path: Path) -> None:
    run = parts_of("method=none", "evaluation.mlp_probe=false", "evaluation.bootstrap=0", "training.epochs=1")
    base.execute(run, say=lambda message: None)
    code = "from efface.report.__main__ import main; main(sys.argv[1:])"
    done = python(hiding("report") + code, run.results_dir, "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "index.html").is_file()


def test_all_extras_are_in_all_and_are_what_make_installs() -> None:
    extras = PYPROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"efface[{','.join(sorted(set(extras) - {'all', 'test', 'dev', 'bench'}))}]"
    assert "efface[all]" in extras["test"]
    assert "'.[test,dev]'" in (ROOT / "Makefile").read_text()
    assert "-e .[test,dev]" in (ROOT / "environment.yml").read_text()


def test_constraints_pin_every_direct_dependency_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = {name: extra for name, extra in PYPROJECT["optional-dependencies"].items() if name != "bench"}
    needed = [Requirement(line) for line in (*PYPROJECT["dependencies"], *itertools.chain(*extras.values()))]
    needed = [requirement for requirement in needed if requirement.name != "efface"]
    assert pins.keys() == {requirement.name for requirement in needed}
    outside = [str(requirement) for requirement in needed if pins[requirement.name] not in requirement.specifier]
    assert outside == []


def make(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Call `make` with an environment that counts as installed, though nothing is in it."""
    installed = folder / "venv" / ".installed"
    installed.parent.mkdir(exist_ok=True)
    installed.touch()
    command = ["make", "--directory", ROOT, f"VENV={installed.parent}", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nothing",
        "%",
        "../../evil",
        "erasers rlace_rank",
        "$(shell touch {})",
        "erasers';touch {};'",
        '";touch {};"',
        "erasers $(shell touch {})",
        "erasers`touch {}`",
    ],
)
def test_make_reproduce_refuses_what_is_no_experiment(name: str, tmp_path: Path) -> None:
    """Covers faults B16."""
    done = make("reproduce", "EXPERIMENT=" + name.format(tmp_path / "PWN"), folder=tmp_path)
    assert done.returncode == 2
    assert "EXPERIMENT=... must be one of: amnesic_layers bias_in_bios certified_removal " in done.stderr
    assert not (tmp_path / "PWN").exists()


def test_make_quotes_names(tmp_path: Path) -> None:
    """Covers faults B16."""
    assert "experiments/erasers/README.md" in make("-n", "reproduce", "EXPERIMENT=erasers", folder=tmp_path).stdout
    shown = make("-n", "run", "RESULTS=a b", folder=tmp_path).stdout
    assert "'results_dir=\"a b\"'" in shown
    assert 'efface.report "a b"' in shown
    spaced = subprocess.run(["make", "help", "VENV=a b"], cwd=ROOT, capture_output=True, text=True)
    assert "VENV=a b: name a folder without spaces" in spaced.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with the wheel, and the distributions of its `grid` extra."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = folder / "source"
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    venv.create(folder / "venv")
    (wheel,) = folder.glob("*.whl")
    bin_folder = folder / "venv" / "bin"
    subprocess.run([*pip, "--python", bin_folder / "python", "install", "--no-deps", wheel], check=True)
    # Nothing is downloaded again: of the distributions of this environment, those of the extra can be imported.
    (packages,) = (folder / "venv").glob("lib/*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\nimport hidden\n")
    (packages / "hidden.py").write_text(hiding("grid"))
    return bin_folder


@pytest.mark.slow
def test_wheel_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DATA_DIR")}
    for program in ([installed / "efface-run"], [installed / "python", ROOT / "run.py"]):
        command = [*program, "method=none", "training.epochs=1", "logger=none"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "finished already" in done.stdout
    assert len(list(tmp_path.glob("results/**/record.json"))) == 1
    where = [installed / "python", "-c", "import efface.cli.conf as c; print(c.CONF)"]
    conf = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(conf.strip()).is_relative_to(installed.parent)
    helped = subprocess.run([installed / "efface-run", "--help"], env=environment, capture_output=True, text=True)
    assert "Usage: efface-run " in helped.stdout
