import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from efface.data.groups import group_counts
from efface.debiased import Debiased
from efface.methods.certified import Certified, PublishedCertified, choose, surplus
from efface.problem import Features, Problem


def accuracy(debiased: Debiased, data: Features) -> float:
    """Unweighted mean over the groups of those in data."""
    correct = (debiased(data.x).argmax(1) == data.y).double()
    group = data.y * 100 + data.a
    return float(torch.stack([correct[group == one].mean() for one in group.unique()]).mean())


def test_surplus_is_what_bias_aligned_groups_have_more() -> None:
    y = torch.tensor([0] * 10 + [1] * 9)
    a = torch.tensor([0] * 8 + [1] * 2 + [1] * 5 + [0] * 4)
    data = Features(torch.zeros(19, 1), y, a)
    assert surplus(data, 2, 2).tolist() == [[6, 0], [0, 1]]
    assert surplus(Features(data.x, y, torch.zeros_like(a)), 2, 2).sum() == 0


def test_requests_know_labels_and_attributes_only(ten_classes: Problem) -> None:
    train = ten_classes.train
    chosen = choose(train, None, ten_classes)
    blind = Features(torch.zeros_like(train.x), train.y, train.a)
    assert torch.equal(chosen, choose(blind, None, replace(ten_classes, head=torch.nn.Linear(1, 1))))
    assert len(chosen.unique()) == len(chosen) == int(surplus(train, 10, 10).sum())
    assert (train.y[chosen] == train.a[chosen]).all()
    stays = torch.ones(len(train), dtype=torch.bool)
    stays[chosen] = False
    remaining = train.take(stays)
    counts = group_counts(remaining.y, remaining.a, 10, 10)
    assert float(counts.max() - counts.min()) <= 2  # label and attribute are independent
    # Whatever the number, it is taken from all labels alike.
    some = choose(train, 100, ten_classes)
    assert torch.equal(some, chosen[:100])
    assert torch.bincount(train.y[some]).tolist() == [10] * 10


def test_forgetting_the_surplus_is_forgetting_the_bias(ten_classes: Problem) -> None:
    unchanged, forgotten = (Certified(removals=m, secret=False).fit(ten_classes) for m in (0, None))
    fair = ten_classes.pairs + ten_classes.pairs_cf
    assert accuracy(forgotten, fair) > accuracy(unchanged, fair) + 0.1
    assert forgotten.info["removed"] + forgotten.info["n_fit"] == len(ten_classes.train)


def test_removal_is_certified_on_inputs_of_each_sample_alone_and_with_a_secret(two_classes: Problem) -> None:
    few: dict[str, Any] = {"removals": 10}
    inputs = replace(two_classes, features_are_inputs=True, per_sample_inputs=True)
    info = Certified(**few).fit(inputs).info
    assert info["certified"] is True
    assert info["certified_reason"] is None
    for problem, options, reason in (
        (replace(inputs, features_are_inputs=False), {}, "extractor"),
        (replace(inputs, per_sample_inputs=None), {}, "dataset.per_sample_inputs=true says so"),
        (replace(inputs, per_sample_inputs=False), {}, "dataset.standardise=false dataset.per_sample_inputs=true"),
        (inputs, {"secret": False}, "seed"),
    ):
        info = Certified(**few, **options).fit(problem).info
        assert info["certified"] is False
        assert reason in info["certified_reason"]


def test_table_standardised_by_removed_people_is_not_certified(tabular: Problem) -> None:
    assert tabular.features_are_inputs
    info = Certified(removals=10).fit(tabular).info
    assert info["certified"] is False
    assert "scaled or merged" in info["certified_reason"]


def test_coloured_digits_are_certified_on_their_pixels(two_classes: Problem) -> None:
    assert two_classes.per_sample_inputs is True


def test_secret_noise_is_neither_recorded_nor_repeated(two_classes: Problem) -> None:
    runs = [Certified(removals=10, residual=1e-3).fit(two_classes) for _ in range(2)]
    assert not torch.equal(runs[0].head.weight, runs[1].head.weight)
    assert runs[0].arrays == {}
    assert runs[0].info == runs[1].info
    json.dumps(runs[0].info)


def test_record_tells_nothing_that_depends_on_the_removed_samples(two_classes: Problem) -> None:
    train, rows = two_classes.train, choose(two_classes.train, 10, two_classes)
    x = train.x.clone()
    x[rows] = torch.rand_like(x[rows])
    other = replace(two_classes, train=replace(train, x=x))
    assert Certified(removals=10).fit(other).info == Certified(removals=10).fit(two_classes).info


def test_published_procedure_trains_anew_and_is_never_called_certified(two_classes: Problem) -> None:
    debiased = PublishedCertified(removals=100, sigma=0.5).fit(
        replace(two_classes, features_are_inputs=True, per_sample_inputs=True)
    )
    info = debiased.info
    assert info["certified"] is False
    assert "published procedure" in info["certified_reason"]
    assert info["retrained"] >= 1
    assert info["budget_spent"] <= info["budget_allowed"]
    assert len(debiased.arrays["budget_spent"]) == 1
    assert info["removed"] == 100


def test_reasons_to_skip(two_classes: Problem) -> None:
    train = two_classes.train
    balanced = replace(two_classes, train=Features(train.x, train.y, torch.arange(len(train)) % 2))
    uniform = replace(two_classes, train=Features(train.x, train.y, torch.zeros_like(train.a)))
    assert "surplus of" in str(Certified(removals=500).skip(balanced))
    assert "no label" in str(Certified().skip(uniform))
    assert Certified().skip(two_classes) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removals": -1}, "^removals is -1, but must be an integer >= 0 or null$"),
        ({"batch_size": 0}, "^batch_size is 0, but must be an integer >= 1$"),
        ({"loss": "hinge"}, r"^loss is 'hinge', but must be auto \| logistic \| softmax$"),
        ({"lam": -1.0}, "^lam is -1.0, but must be a number > 0$"),
        ({"delta": 1.0}, "^delta is 1.0, but must be a number > 0 and < 1$"),
        ({"residual": 0.0}, "^residual is 0.0, but must be a number > 0$"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Certified(**options)


def test_options_that_do_not_act_do_not_exist() -> None:
    for method, name in ((Certified, "sigma"), (Certified, "budget"), (PublishedCertified, "residual")):
        with pytest.raises(TypeError, match=f"has no option {name}"):
            method(**{name: 1.0})
