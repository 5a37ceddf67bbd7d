"""The pages of docs/ agree with the code, and their examples run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import CONF

import efface
import efface.scrubbing
import efface.sklearn
from efface.data.features import FeatureFile
from efface.metrics import METRICS
from efface.record import Record

ROOT = CONF.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def page(name: str) -> str:
    return (DOCS / name).read_text()


def blocks(text: str) -> dict[str, str]:
    """Code blocks whose first line names a file, by that name."""
    return dict(re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", text, re.DOTALL))


def test_api_page_names_everything_public() -> None:
    text = page("api.md")
    transformers = ("LEACE", "SAL", "SPLINCE", "RLACE", "OracleLEACE")
    assert all(hasattr(efface.sklearn, name) for name in transformers)
    names = [*efface.__all__, *efface.scrubbing.__all__, *transformers]
    assert [name for name in names if not name.startswith("__") and f"`{name}`" not in text] == []


def test_metrics_page_names_every_metric() -> None:
    text = page("reading_the_table.md")
    assert [metric.key for metric in METRICS if f"| `{metric.key}` |" not in text] == []


@pytest.mark.parametrize(
    ("group", "name"), [("method", "methods.md"), ("dataset", "data_sets.md"), ("model", "models.md")]
)
def test_tables_name_every_option(group: str, name: str) -> None:
    text = page(name)
    options = [path.stem for path in (CONF / group).glob("*.yaml")]
    assert [option for option in options if not re.search(rf"^\| `{option}`", text, re.MULTILINE)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def run_in(folder: Path, *arguments: str) -> None:
    places = ["logger=none", "device=cpu", f"cache_dir={folder / 'cache'}", f"results_dir={folder / 'results'}"]
    env = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "run.py", *arguments, *places], cwd=folder, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_examples_of_additions_run_where_the_page_puts_them(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conf", "run.py"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        elif source.exists():
            shutil.copy(source, tmp_path / name)
    examples = blocks(page("adding_a_method.md"))
    assert len(examples) == 8
    for name, code in examples.items():
        file = tmp_path / name
        assert file.parent.is_dir(), name
        assert not file.exists(), name
        file.write_text(code)
    quick = ("training.epochs=2", "evaluation.bootstrap=0", "evaluation.mlp_probe=false")
    run_in(tmp_path, "-m", "method=balanced_head,column_erasure", "model=narrow", *quick)
    run_in(tmp_path, "-m", "dataset=diabetes", "method=leace,column_erasure,unaware,balanced_head", *quick)
    records = [Record.read(path) for path in (tmp_path / "results").rglob("record.json")]
    assert len(records) == 6
    assert [record.reason for record in records if record.status != "done"] == []
    erased = {
        record.config["method"]["name"]: record.metrics["max_abs_cov"]
        for record in records
        if record.config["dataset"]["name"] == "diabetes"
    }
    assert erased["leace"] < 1e-5 < erased["column_erasure"]


def test_feature_file_example_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", page("data_sets.md"), re.DOTALL)
    exec(code, {})
    data = FeatureFile(path="my.npz").load(data_dir=tmp_path, cache_dir=tmp_path, seed=0)
    assert len(data.train) == 360
    assert len(data.classes) == len(data.attributes) == 2
