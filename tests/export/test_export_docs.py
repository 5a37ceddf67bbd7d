"""The pages on Python and on exports say what works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import CONF

from efface.export.directory import FORMATS
from efface.verify.verify import verify

DOCS = CONF.parent / "docs"


def test_example_of_the_python_page_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n# debias_a_pipeline\.py\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = re.findall(r"-?\d\.\d\d", done.stdout)
    assert abs(float(after)) < abs(float(before)) / 2
    assert [check for check in verify(tmp_path / "my_model", run_programs=True) if check.holds is False] == []


def test_export_page_names_every_format() -> None:
    text = (DOCS / "export.md").read_text()
    assert [name for name in FORMATS if f"| `{name}` |" not in text] == []


@pytest.mark.slow
def test_commands_of_the_export_page_run(tmp_path: Path) -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", (DOCS / "export.md").read_text(), re.DOTALL)
    quick = "training.epochs=1 evaluation.bootstrap=0 evaluation.mlp_probe=false logger=none device=cpu"
    script = commands.replace("run.py method=leace", f"{CONF.parent / 'run.py'} method=leace {quick}")
    script = script.replace("python ", f"{sys.executable} ")
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my_model" / "model.onnx").is_file()
