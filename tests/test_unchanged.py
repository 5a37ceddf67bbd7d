"""Names and places may change, metrics may not: see `tests.unchanged`."""

import json
import os

import pytest
from tests.unchanged import COMMANDS, STORED, TOLERANCE, differences, measure

NEEDS_DATA = {"adult", "scrubbing"}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_metrics_are_what_they_were(name: str) -> None:
    if name in NEEDS_DATA and "DATA_DIR" not in os.environ:
        pytest.skip("set DATA_DIR to a folder with adult and ud_english_ewt")
    stored, measured = json.loads(STORED.read_text()), measure([name])
    assert measured.keys() == {run for run in stored if run.split()[0] == name}
    assert not list(differences(stored, measured, rel=TOLERANCE["rel"], abs_=TOLERANCE["abs"]))
