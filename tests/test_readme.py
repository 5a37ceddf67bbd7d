import re

from tests.conftest import CONF

README = (CONF.parent / "README.md").read_text()


def test_the_example_runs() -> None:
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code, {})


def test_every_option_is_in_its_table() -> None:
    for group in ("dataset", "method"):
        for path in (CONF / group).glob("*.yaml"):
            assert f"| `{path.stem}`" in README
