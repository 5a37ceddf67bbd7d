"""Concepts of UCI Adult in their own units: slow, and only where the data are."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from efface.data.adult import COLUMNS
from efface.erasure.certificate import certify
from efface.erasure.leace import erase_in_sequence, erase_jointly
from efface.erasure.oracle import OracleEraser
from efface.sklearn import LEACE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with adult/"),
]


def people() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of 32,561 people, their sex as 0 or 1, and their income from capital in dollars, up to 99,999."""
    file = Path(os.environ["DATA_DIR"]) / "adult" / "adult.data"
    table = pd.read_csv(file, header=None, names=list(COLUMNS), skipinitialspace=True)
    numbers = table[["age", "education-num", "capital-loss", "hours-per-week"]].astype(float)
    categories = ["workclass", "marital-status", "occupation", "relationship", "race"]
    columns = [((numbers - numbers.mean()) / numbers.std()).to_numpy(), np.log1p(table[["capital-gain"]])]
    columns += [pd.get_dummies(table[name]).to_numpy(float) for name in categories]
    sex = torch.from_numpy((table["sex"] == "Male").to_numpy(np.int64))
    return torch.from_numpy(np.hstack(columns)), sex, torch.from_numpy(table["capital-gain"].to_numpy(np.float64))


def bits(share: float) -> float:
    """What a linear predictor that explains this share of a variance tells of a Gaussian."""
    return -math.log2(1 - share) / 2


@pytest.mark.parametrize("fit", [erase_jointly, erase_in_sequence])
def test_sex_and_income_in_dollars_are_both_erased(fit: Callable[..., Any]) -> None:
    """Covers audit A4: `erase_jointly(x, [sex, income], rtol=1e-4)` had rank 1, and left 0.54 of 0.55 bits of sex."""
    x, sex, income = people()
    before = certify(lambda x: x, x, sex)
    assert before.information is not None
    assert before.information > 0.3
    assert bits(certify(lambda x: x, x, income).linear_gain) > 0.05
    for rtol in (1e-4, 1e-6):
        for units in (1.0, 1e-5):
            eraser = fit(x, [sex, units * income], rtol=rtol)
            assert eraser.rank == 2
            after = certify(eraser, x, sex)
            assert after.information is not None
            assert abs(after.information) < 1e-6
            assert bits(certify(eraser, x, income).linear_gain) < 1e-6


def test_oracle_and_scikit_learn_erase_both_too() -> None:
    """Covers audit A4: a correlation of .70 with sex was left by `OracleFitter`, and .71 by `efface.sklearn.LEACE`."""
    x, sex, income = people()
    both = torch.stack([income, sex.double()], 1)
    table = pd.DataFrame({"income": income, "sex": sex})
    erased = {
        "oracle": OracleEraser.fit(x, both, rtol=1e-4)(x, both).numpy(),
        "scikit-learn": LEACE().fit_transform(x.float().numpy(), sensitive_features=table).astype(float),
    }
    for values in erased.values():
        varies = values.std(0) > 1e-6
        correlations = np.corrcoef(values[:, varies], both.numpy(), rowvar=False)[: int(varies.sum()), -2:]
        assert np.abs(correlations).max() < 1e-4
