import sys
from dataclasses import replace

import pytest
import torch

from efface.data.groups import group_accuracies, group_counts
from efface.methods.base import NotApplicable
from efface.methods.dfr_published import DfrPublished, _balanced
from efface.problem import Problem


def test_subsets_have_groups_of_one_size(two_classes: Problem) -> None:
    data = DfrPublished().training_data(two_classes)
    generator = torch.Generator().manual_seed(0)
    one, other = (_balanced(data, two_classes, generator) for _ in range(2))
    counts = group_counts(one.y, one.a, 2, two_classes.n_attributes)
    assert len(counts[counts > 0].unique()) == 1
    assert not torch.equal(one.x, other.x), "each fit sees another subset"


def test_penalty_and_class_weights_are_chosen_on_val(two_classes: Problem) -> None:
    method = DfrPublished(c=(1.0, 0.01), class_weights=(1.0, 10.0), fits=3)
    debiased = method.fit(two_classes)
    tried = debiased.info["tried"]
    settings = [(row["c"], tuple(row["class_weights"])) for row in tried]
    assert settings == [(c, w) for c in (1.0, 0.01) for w in ((1.0, 1.0), (1.0, 10.0), (10.0, 1.0))]
    assert debiased.info["selection"] == "worst_group_accuracy"
    scores = [row["val_worst_group_accuracy"] for row in tried]
    assert debiased.info["chosen"]["val_worst_group_accuracy"] == max(scores)
    cf = two_classes.pairs_cf
    correct = debiased(cf.x).argmax(1) == cf.y
    assert float(group_accuracies(correct, cf.y, cf.a, 2, two_classes.n_attributes).nanmean()) > 0.9


def test_strong_penalty_leaves_few_weights(two_classes: Problem) -> None:
    strong, weak = (DfrPublished(c=(c,), class_weights=(1.0,), fits=1).fit(two_classes).head.weight for c in (0.03, 1))
    assert 0 < int((strong[1] != 0).sum()) < int((weak[1] != 0).sum())
    torch.testing.assert_close(strong[0], -strong[1])


def test_more_classes_are_fitted_one_against_the_rest(ten_classes: Problem) -> None:
    debiased = DfrPublished(c=(1.0,), fits=5).fit(ten_classes)
    assert debiased.head.weight.shape == (10, 100)
    assert debiased.info["chosen"]["class_weights"] == [1.0] * 10
    data = debiased.fitted_on
    assert data is not None
    assert float((debiased(data.x).argmax(1) == data.y).double().mean()) > 0.6


def test_pairs_of_different_people_count_once(two_classes: Problem) -> None:
    unflippable = replace(two_classes, flippable=False, source=None)
    debiased = DfrPublished(c=(0.1,), class_weights=(1.0,), fits=2).fit(unflippable)
    data = debiased.fitted_on
    assert data is not None
    assert len(data) == len(two_classes.pairs), "the other member of a pair is in the set as itself"
    assert debiased.head.weight.isfinite().all()


def test_groups_without_a_sample_are_named(ten_classes: Problem) -> None:
    debiased = DfrPublished(c=(1.0,), fits=1, number=60).fit(ten_classes)
    assert len(debiased.info["empty_cells"]) >= 100 - 10 - 60, "60 own members are in few more than ten cells"


def test_it_says_what_it_needs(two_classes: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = two_classes.pairs
    alone = replace(two_classes, pairs=pairs.take(pairs.y == 0), pairs_cf=two_classes.pairs_cf.take(pairs.y == 0))
    with pytest.raises(NotApplicable, match=r"no sample of classes \[1\] among the pairs"):
        DfrPublished().fit(alone)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'efface\[sklearn\]'"):
        DfrPublished()
