import math
from dataclasses import replace

import pytest
import torch

from efface.debiased import Debiased
from efface.evaluation.evaluate import max_abs_cov
from efface.evaluation.probes import Standardiser
from efface.methods.erasure import rare_columns
from efface.methods.heads import refit_head
from efface.methods.leace import Leace
from efface.problem import Features, Problem
from efface.representations import Representation
from efface.runs.grid import sample_sizes
from efface.softmax import fit_softmax


def gain(debiased: Debiased, problem: Problem) -> float:
    """Bits that a converged probe gains over the best constant, on the data fitted on and under their weights."""
    data = debiased.fitted_on
    assert data is not None
    x = Standardiser.of(problem.train.x)(debiased.represent(data.x, data.a))
    fit = fit_softmax(x, data.a, n_classes=problem.n_attributes, weight=data.weight, l2=1e-6, tol=1e-9)
    constant = fit_softmax(x[:, :0], data.a, n_classes=problem.n_attributes, weight=data.weight)
    assert fit.converged
    assert constant.converged
    return (constant.loss - fit.loss) / math.log(2)


@pytest.mark.parametrize("fit_on", ["train", "pairs", "train+pairs"])
@pytest.mark.parametrize("reweigh", [False, True])
def test_nothing_is_left_on_the_data_fitted_on(ten_classes: Problem, fit_on: str, reweigh: bool) -> None:
    debiased = Leace(fit_on=fit_on, reweigh=reweigh).fit(ten_classes)  # type: ignore[arg-type]
    assert gain(replace(debiased, represent=Representation()), ten_classes) > 1
    assert abs(gain(debiased, ten_classes)) < 1e-4
    cov = max_abs_cov(debiased, ten_classes.n_attributes)
    assert cov is not None
    assert cov < 1e-5 * float(ten_classes.train.x.abs().max())
    assert debiased.info["rank"] == 9


def test_rows_fitted_on(ten_classes: Problem) -> None:
    sizes = {
        fit_on: sample_sizes(Leace(fit_on=fit_on, reweigh=False).fit(ten_classes))["n_fit"]  # type: ignore[arg-type]
        for fit_on in ("train", "pairs", "train+pairs")
    }
    assert sizes == {"train": 3000, "pairs": 1000, "train+pairs": 4000}
    reweighed = Leace(fit_on="pairs", reweigh=True).fit(ten_classes)
    assert 1 < sample_sizes(reweighed)["n_eff"] < 1000


def test_rare_columns_are_dropped_to_their_mode() -> None:
    x = torch.zeros(200, 3)
    x[:, 0] = torch.randn(200)
    x[0, 1] = 5.0
    x[:10, 2] = 1.0
    dropped, mode = rare_columns(x, 0.01)
    assert dropped.tolist() == [False, True, False]
    assert mode[1:].tolist() == [0, 0]
    assert rare_columns(x, 0.0)[0].tolist() == [False, False, False]
    assert rare_columns(x, 0.1)[0].tolist() == [False, True, True]


def test_a_dropped_column_reaches_no_one(ten_classes: Problem) -> None:
    train = ten_classes.train
    x = torch.cat([train.x, torch.zeros(len(train), 1)], 1)
    x[: len(x) // 200, -1] = 100.0
    head = torch.nn.Linear(x.shape[1], 10)
    problem = replace(ten_classes, train=Features(x, train.y, train.a), head=head)
    represented = Leace(fit_on="train", reweigh=False).fit(problem).represent(x)
    assert float(represented[:, -1].std()) < 1e-3


def test_a_refitted_head_is_converged_and_better(ten_classes: Problem) -> None:
    kept = Leace(fit_on="pairs", reweigh=True).fit(ten_classes)
    refitted = Leace(fit_on="pairs", reweigh=True, refit_head=True).fit(ten_classes)
    assert refitted.info["refit_converged"]
    data = refitted.fitted_on
    assert data is not None

    def loss(debiased: Debiased) -> float:
        losses = torch.nn.functional.cross_entropy(debiased(data.x), data.y, reduction="none")
        return float(data.weight @ losses.double() / data.weight.sum())  # type: ignore[union-attr, operator]

    assert loss(refitted) < 0.5 * loss(kept)


def test_a_refitted_head_minds_the_weights(ten_classes: Problem) -> None:
    debiased = Leace(fit_on="pairs", reweigh=True, refit_head=True).fit(ten_classes)
    data = debiased.fitted_on
    assert data is not None
    represented = debiased.represent(data.x)
    weighted, _ = refit_head(represented, data, n_classes=10, l2=1e-3)
    plain, _ = refit_head(represented, replace(data, weight=None), n_classes=10, l2=1e-3)
    torch.testing.assert_close(debiased.head.weight, weighted.weight)
    assert not torch.allclose(debiased.head.weight, plain.weight, rtol=1e-2)


def test_refit_is_the_softmax_fit_in_the_units_of_the_features(generator: torch.Generator) -> None:
    x = torch.randn(300, 4, generator=generator) * torch.tensor([1e-3, 1.0, 50.0, 0.0]) + 7
    y = (x[:, 1] > 7).long()
    data = Features(x, y, y)
    head, converged = refit_head(x, data, n_classes=2, l2=0.1)
    scaled = ((x - x.mean(0)) / x.std(0))[:, :3]
    assert converged
    torch.testing.assert_close(
        head(x).softmax(1), fit_softmax(scaled, y, l2=0.1).logits(scaled).softmax(1).float(), atol=1e-4, rtol=0
    )


def test_reasons_to_skip(ten_classes: Problem) -> None:
    train = ten_classes.train
    empty = Features(train.x[:0], train.y[:0], train.a[:0])
    problem = replace(ten_classes, pairs=empty, pairs_cf=empty)
    assert "no counterfactual pairs" in str(Leace(fit_on="pairs", reweigh=False).skip(problem))
    problem = replace(ten_classes, train=Features(train.x, train.y, torch.zeros_like(train.a)))
    assert "one value only" in str(Leace(fit_on="train", reweigh=False).skip(problem))
    problem = replace(ten_classes, train=Features(train.x, train.y, train.y))
    assert "y=0,a=1" in str(Leace(fit_on="train", reweigh=True).skip(problem))
    assert Leace(fit_on="train", reweigh=False).skip(problem) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit_on": "test"}, "fit_on is 'test'"),
        ({"min_support": 1.0}, "min_support is 1.0"),
        ({"refit_l2": 0.0}, "refit_l2 is 0.0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Leace(**{"fit_on": "train", "reweigh": False, **options})
