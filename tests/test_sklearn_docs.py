"""The page on scikit-learn: its examples run, and so does each new call of its table of migration."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from tests.conftest import CONF

import efface
import efface.sklearn

PAGE = (CONF.parent / "docs" / "sklearn.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, re.DOTALL))
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str) -> None:
    scope: dict[str, Any] = {}
    with sklearn.config_context():
        exec(EXAMPLES[name], scope)
    if "search" in scope:
        assert scope["search"].best_score_ > 0.75
        erased = scope["search"].best_estimator_[:-1].transform(scope["X"])
        assert erased.shape == (1000, 5)


def data() -> dict[str, Any]:
    """What the calls of the table name, for one call."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, 300)
    y = rng.integers(0, 2, 300)
    X = rng.normal(size=(300, 4)) + z[:, None] * [1, 0, 0, 0] + y[:, None] * [0, 1, 0, 0]
    tensors = {"x": torch.from_numpy(X), "d": 4, "k": 1}
    kinds = {name: getattr(efface.sklearn, name) for name in efface.sklearn.__all__}
    return {"efface": efface, "X": X, "y": y, "z": z, "a": 0.5, **tensors, **kinds}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_new_call_of_the_table_runs(row: list[str]) -> None:
    before, now, difference = row
    scope = data()
    if "sensitive_feature_ids" in now:
        scope["X"] = pd.DataFrame(scope["X"], columns=list("bcde")).assign(z=scope["z"])
    result = eval(now.strip("`"), scope)
    assert before != now
    assert difference
    if not isinstance(result, efface.LeaceEraser | efface.QuadraticEraser):
        assert np.asarray(result).shape in {(300, 4), (4, 4)}
        assert np.isfinite(np.asarray(result)).all()


def test_table_names_the_packages_that_people_come_from() -> None:
    packages = {row[0].split(":")[0].split(",")[0] for row in ROWS}
    assert packages == {"fairlearn", "AIF360", "concept_erasure", "rlace-icml", "INLP"}
