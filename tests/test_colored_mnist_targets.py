"""What the whole chain reaches on full Colored MNIST: slow, and only where the data are."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import CONF, problem_of

import efface
from efface.evaluation.probes import Standardiser
from efface.problem import Problem
from efface.record import Record
from efface.runs import base
from efface.runs.grid import GridRun
from efface.softmax import fit_softmax

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with MNIST"),
]
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def records(parts_of: Callable[..., GridRun]) -> dict[str, list[Record]]:
    rows = {"none": ["method=none"], "leace": ["method=leace"], "refitted": ["method=leace", "method.refit_head=true"]}
    return {
        name: [
            base.execute(parts_of("dataset=colored_mnist", f"seed={seed}", *overrides), say=lambda message: None)
            for seed in SEEDS
        ]
        for name, overrides in rows.items()
    }


def test_leace_raises_unbiased_accuracy(records: dict[str, list[Record]]) -> None:
    for i in range(len(SEEDS)):
        none, leace, refitted = (
            records[name][i].metrics["unbiased_accuracy"] for name in ("none", "leace", "refitted")
        )
        assert leace >= none + 0.10
        assert refitted >= none + 0.15


def test_leace_leaves_nothing_for_a_linear_probe(records: dict[str, list[Record]]) -> None:
    for i in range(len(SEEDS)):
        assert records["none"][i].metrics["probe_information"] > 2.5
        assert records["leace"][i].metrics["probe_information"] <= 0.1


def test_probes_gain_nothing_on_the_data_fitted_on(parts_of: Callable[..., GridRun]) -> None:
    for seed in SEEDS:
        parts = parts_of("dataset=colored_mnist", f"seed={seed}", "method=leace")
        problem: Problem = problem_of(parts)
        debiased = parts.method.fit(problem)
        data = debiased.fitted_on
        assert data is not None
        x = Standardiser.of(problem.train.x)(debiased.represent(data.x))
        fit = fit_softmax(x, data.a, weight=data.weight, l2=1e-7, tol=1e-9)
        constant = fit_softmax(x[:, :0], data.a, weight=data.weight)
        assert fit.converged
        assert (constant.loss - fit.loss) / math.log(2) < 1e-4


def test_models_are_trained_once(records: dict[str, list[Record]]) -> None:
    assert all(record.run["cache_hit"]["model"] for name in ("leace", "refitted") for record in records[name])


def test_run_fits_in_memory(tmp_path: Path) -> None:
    # In a process of its own: this one still holds what the tests before left behind. Epochs do not change the peak.
    arguments = ["dataset=colored_mnist", "method=leace", "training.epochs=1", "logger=none"]
    directories = [f"results_dir={tmp_path / 'results'}", f"cache_dir={tmp_path / 'cache'}"]
    subprocess.run([sys.executable, "run.py", *arguments, *directories], cwd=CONF.parent, check=True)
    (path,) = tmp_path.glob("results/**/record.json")
    assert Record.model_validate_json(path.read_text()).run["peak_memory_bytes"] < 1.5e9


def test_saved_model_is_the_model(records: dict[str, list[Record]], parts_of: Callable[..., GridRun]) -> None:
    parts = parts_of("dataset=colored_mnist", "method=leace")
    problem = problem_of(parts)
    correct = efface.load(parts.directory)(problem.val.x).argmax(1) == problem.val.y
    assert float(correct.double().mean()) == pytest.approx(records["leace"][0].val_metrics["accuracy"])
