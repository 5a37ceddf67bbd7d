"""What unlearning reaches on full Colored MNIST: slow, and only where the data are.

One seed for each bias ratio; three are in experiments/fmd_colored_mnist. A base model takes about 15 s on two cores, a
method a few.
"""

import os
from collections.abc import Callable

import pytest

from efface.record import Record
from efface.runs import base
from efface.runs.grid import GridRun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with MNIST"),
]
RATIOS = (0.99, 0.995, 0.95)
CHEAP = ("dataset=colored_mnist", "evaluation.probe=false", "evaluation.mlp_probe=false")
ROWS = {
    "none": ["method=none"],
    "converge": ["method=converge"],
    "dfr": ["method=dfr"],
    "fmd": ["method=fmd"],
    "fmd_500": ["method=fmd", "method.number=500"],
}


@pytest.fixture(scope="module")
def records(parts_of: Callable[..., GridRun]) -> dict[tuple[str, float], Record]:
    quiet = {"say": lambda message: None}
    return {
        (name, ratio): base.execute(parts_of(*CHEAP, *row, f"dataset.bias_ratio={ratio}"), **quiet)
        for ratio in RATIOS
        for name, row in ROWS.items()
    }


@pytest.mark.parametrize(("ratio", "gain"), [(0.99, 0.18), (0.995, 0.30), (0.95, 0.04)])
def test_unbiased_accuracy_rises(records: dict[tuple[str, float], Record], ratio: float, gain: float) -> None:
    none, converge, dfr, fmd = (
        records[name, ratio].metrics["unbiased_accuracy"] for name in ("none", "converge", "dfr", "fmd")
    )
    assert fmd >= none + gain
    assert fmd >= converge + gain - 0.03, "what unfinished training left is not to be credited to unlearning"
    assert fmd >= dfr - 0.005
    assert records["fmd", ratio].info["converged"]
    for name in ("dfr", "fmd"):
        print(f"{ratio}: {name} took {records[name, ratio].run['seconds']['method']:.1f} s")


def test_counterfactual_bias_is_halved(records: dict[tuple[str, float], Record]) -> None:
    before, after = (records[name, 0.99].metrics["counterfactual_bias"] for name in ("none", "fmd"))
    assert after <= before / 2


def test_500_pairs_do_much_of_it(records: dict[tuple[str, float], Record]) -> None:
    none, fmd = (records[name, 0.99].metrics["unbiased_accuracy"] for name in ("none", "fmd_500"))
    assert fmd >= none + 0.12


def test_helpful_samples_are_less_often_bias_aligned(records: dict[tuple[str, float], Record]) -> None:
    influence = records["fmd", 0.99].info["influence"]
    assert influence["aligned_share_of_helpful"] < 0.75 < influence["aligned_share"]
