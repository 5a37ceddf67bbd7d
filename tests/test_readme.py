import re
import subprocess
import sys

from tests.conftest import CONF

README = (CONF.parent / "README.md").read_text()
EXTRAS = (
    *("aif360", "annotated_types", "datasets", "filelock", "hydra", "jinja2", "matplotlib", "mlxtend", "omegaconf"),
    *("pandas", "pooch", "pyarrow", "pydantic", "scipy", "sklearn", "tabulate", "torchvision", "transformers", "wandb"),
)
"""Modules of the extras: those that the core must do without."""


def test_example_runs() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    for code in examples:
        exec(code, {})


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_core_works_without_the_extras() -> None:
    code = f"""
import sys
sys.modules |= dict.fromkeys({EXTRAS})  # importing one of them then fails
import torch
import efface, efface.scrubbing
for name in efface.__all__:
    getattr(efface, name)
x = torch.randn(100, 5)
efface.LeaceEraser.fit(x, (x[:, 0] > 0).long())(x)
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
