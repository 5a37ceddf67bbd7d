import re

from tests.conftest import CONF

README = (CONF.parent / "README.md").read_text()


def test_example_runs() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    for code in examples:
        exec(code, {})


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120
