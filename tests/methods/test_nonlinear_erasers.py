"""Erasers against readers that are not linear, as methods: where they do not apply, and what their records say."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from efface.methods.base import NotApplicable
from efface.methods.erasure import Erasure
from efface.methods.igbp import Igbp
from efface.methods.obliviator import Obliviator
from efface.methods.qleace_free import QuadraticLeaceFree
from efface.problem import Problem

METHODS: list[type[Erasure]] = [Igbp, QuadraticLeaceFree, Obliviator]


@pytest.mark.parametrize("method", METHODS)
def test_record_has_the_trade_off_of_every_iteration(method: type[Erasure], two_classes: Problem) -> None:
    options: dict[str, Any] = {**method.small, "iterations": 2, "fit_on": "train", "reweigh": False}
    debiased = method(**options).fit(two_classes)
    trade_off, iterations = debiased.info["trade_off"], debiased.info["iterations"]
    assert trade_off.keys() == {"information", "accuracy", "shift", "val_accuracy"}
    assert len(trade_off["val_accuracy"]) == iterations + 1
    assert trade_off["shift"][0] == 0
    after = (debiased(two_classes.val.x).argmax(1) == two_classes.val.y).double()
    assert trade_off["val_accuracy"][-1] == pytest.approx(float(after.mean()))


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (Igbp, {"iterations": 2}),
        (Igbp, {"width": 9}),
        (Igbp, {"whiten": False}),
        (QuadraticLeaceFree, {"iterations": 2}),
        (Obliviator, {"iterations": 2}),
        (Obliviator, {"keep_label": False}),
        *((Obliviator, {name: value + 1}) for name, value in Obliviator.small.items() if name != "iterations"),
    ],
)
def test_every_option_reaches_the_eraser(method: type[Erasure], change: dict[str, Any], two_classes: Problem) -> None:
    usual: dict[str, Any] = {**method.small, "fit_on": "train", "reweigh": False}
    val = two_classes.val.x
    one, other = (method(**options).fit(two_classes).represent(val) for options in (usual, {**usual, **change}))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_method_does_not_apply_where_a_value_has_one_sample(method: type[Erasure], two_classes: Problem) -> None:
    train = two_classes.train
    once = train.take(torch.cat([(train.a == 0).nonzero()[:, 0], (train.a == 1).nonzero()[:1, 0]]))
    with pytest.raises(NotApplicable, match=r"^fit_on=train: attributes \[1\] have fewer than two samples"):
        method(fit_on="train", reweigh=False).fit(replace(two_classes, train=once))


def test_obliviator_needs_more_features_than_the_attribute_has_values(two_classes: Problem) -> None:
    reason = Obliviator(fit_on="train", reweigh=False, features=2).skip(two_classes)
    assert reason == "features=2: the attribute has 2 values, and there must be more Fourier features"
