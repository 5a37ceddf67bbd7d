import math
from dataclasses import replace

import pytest
import torch

from efface.debiased import Debiased
from efface.evaluation.evaluate import max_abs_cov
from efface.evaluation.probes import Standardiser
from efface.methods.base import NotApplicable
from efface.methods.erasure import rare_columns
from efface.methods.heads import refit_head
from efface.methods.inlp import Inlp
from efface.methods.leace import Leace
from efface.methods.qleace import QuadraticLeace
from efface.methods.rlace import Rlace
from efface.problem import Features, Problem
from efface.representations import Representation
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
def test_leace_leaves_nothing_on_the_data_fitted_on(ten_classes: Problem, fit_on: str, reweigh: bool) -> None:
    debiased = Leace(fit_on=fit_on, reweigh=reweigh).fit(ten_classes)  # type: ignore[arg-type]
    assert gain(replace(debiased, represent=Representation()), ten_classes) > 1
    assert abs(gain(debiased, ten_classes)) < 1e-4
    cov = max_abs_cov(debiased, ten_classes.n_attributes)
    assert cov is not None
    assert cov < 1e-5 * float(ten_classes.train.x.abs().max())
    assert debiased.info["rank"] == 9


def test_rows_fitted_on(ten_classes: Problem) -> None:
    for fit_on, size in {"train": 3000, "pairs": 1000, "train+pairs": 4000}.items():
        data = Leace(fit_on=fit_on, reweigh=False).fit(ten_classes).fitted_on  # type: ignore[arg-type]
        assert data is not None
        assert (len(data), data.weight) == (size, None)
    reweighed = Leace(fit_on="pairs", reweigh=True).fit(ten_classes).fitted_on
    assert reweighed is not None
    weight = reweighed.weight
    assert weight is not None
    assert float(weight.mean()) == pytest.approx(1)
    by_label_and_attribute = torch.zeros(10, 10, dtype=torch.float64).index_put(
        (reweighed.y, reweighed.a), weight, accumulate=True
    )
    share = by_label_and_attribute / len(reweighed)
    torch.testing.assert_close(share, share.sum(1, keepdim=True) * share.sum(0))


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


def test_dropped_column_reaches_no_one(ten_classes: Problem) -> None:
    train = ten_classes.train
    x = torch.cat([train.x, torch.zeros(len(train), 1)], 1)
    x[: len(x) // 200, -1] = 100.0
    head = torch.nn.Linear(x.shape[1], 10)
    problem = replace(ten_classes, train=Features(x, train.y, train.a), head=head)
    represented = Leace(fit_on="train", reweigh=False).fit(problem).represent(x)
    assert float(represented[:, -1].std()) < 1e-3


def test_refitted_head_is_converged_and_better(ten_classes: Problem) -> None:
    unchanged = Leace(fit_on="pairs", reweigh=True).fit(ten_classes)
    refitted = Leace(fit_on="pairs", reweigh=True, refit_head=True).fit(ten_classes)
    assert refitted.info["refit_converged"]
    data = refitted.fitted_on
    assert data is not None

    def loss(debiased: Debiased) -> float:
        losses = torch.nn.functional.cross_entropy(debiased(data.x), data.y, reduction="none")
        return float(data.weight @ losses.double() / data.weight.sum())  # type: ignore[union-attr, operator]

    assert loss(refitted) < 0.5 * loss(unchanged)


def test_refitted_head_minds_the_weights(ten_classes: Problem) -> None:
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
    with pytest.raises(NotApplicable, match=r"reweigh=true: .* no samples with y=0,a=1"):
        Leace(fit_on="train", reweigh=True).fit(problem)
    assert Leace(fit_on="train", reweigh=False).skip(problem) is None
    fewer = replace(ten_classes, train=train.take(train.y != 4))
    assert "no sample of classes [4] in fit_on=train" in str(
        Leace(fit_on="train", reweigh=False, refit_head=True).skip(fewer)
    )
    d = train.x.shape[1]
    wide = Rlace(fit_on="train", reweigh=False, rank=d)
    assert f"rank={d}: there are {d} features only" in str(wide.skip(ten_classes))
    once = train.take(torch.cat([(train.a != 3).nonzero()[:, 0], (train.a == 3).nonzero()[:1, 0]]))
    assert "attributes [3] have fewer than two samples" in str(
        QuadraticLeace(fit_on="train", reweigh=False).skip(replace(ten_classes, train=once))
    )


def test_fitted_on_keeps_clusters(ten_classes: Problem) -> None:
    train = replace(ten_classes.train, cluster=torch.arange(len(ten_classes.train)))
    fitted = Leace(fit_on="train", reweigh=True).fit(replace(ten_classes, train=train)).fitted_on
    assert fitted is not None
    assert fitted.cluster is train.cluster
    assert fitted.weight is not None


def test_inlp_needs_a_limit() -> None:
    with pytest.raises(ValueError, match="rank and iterations are both null"):
        Inlp(fit_on="train", reweigh=False, iterations=None)
    with pytest.raises(ValueError, match=r"^iterations is 0, but must be an integer >= 1 or null$"):
        Inlp(fit_on="train", reweigh=False, iterations=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit_on": "test"}, r"^fit_on is 'test', but must be train \| pairs \| train\+pairs$"),
        ({"min_support": 1.0}, "^min_support is 1.0, but must be a number >= 0 and < 1$"),
        ({"refit_l2": 0.0}, "^refit_l2 is 0.0, but must be a number > 0$"),
        ({"rtol": 0.0}, "^rtol is 0.0, but must be a number > 0 and < 1$"),
        ({"shrinkage": "covariance"}, "^shrinkage is 'covariance', but must be true or false or correlation$"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Leace(**{"fit_on": "train", "reweigh": False, **options})
