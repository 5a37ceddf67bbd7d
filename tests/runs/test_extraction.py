"""Features are read once for each cut, and again only for counterfactuals that are asked for."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from efface.cache import Entry
from efface.data.base import Dataset
from efface.models.base import Model
from efface.models.mlp import mlp
from efface.runs.extraction import Extraction


class Kept:
    """A cache in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.built = 0

    def __call__(self, key: Mapping[str, Any], build: Callable[[], Entry]) -> Entry:
        if str(key) not in self.entries:
            self.built += 1
            self.entries[str(key)] = build()
        return self.entries[str(key)]


@pytest.fixture
def model(mini: Dataset) -> Model:
    torch.manual_seed(0)
    return mlp(input_shape=mini.input_shape, n_classes=10, hidden=[20, 10]).eval().requires_grad_(False)


def extraction(model: Model, dataset: Dataset, cached: Kept) -> Extraction:
    return Extraction(
        model=model,
        dataset=dataset,
        inputs={"data": "mini"},
        cached=cached,
        seed=0,
        device="cpu",
        precision="float32",
        progress=False,
    )


def test_features_are_those_of_the_model_at_each_cut(model: Model, mini: Dataset) -> None:
    features = extraction(model, mini, Kept())
    x = mini.test.inputs(torch.arange(len(mini.test)))
    for cut in (1, 2):
        split = features.features(cut)
        torch.testing.assert_close(split.test.x, model.cut(cut)[0](x))
        torch.testing.assert_close(features.layers(cut)(split.test.x), model(x))
        assert torch.equal(split.test.a, mini.test.a)
    assert all(getattr(split, field.name) is not None for field in fields(split))
    with pytest.raises(ValueError, match="does not end in 4 linear layers"):
        features.features(4)


def test_counterfactuals_are_other_pictures_of_the_same_samples(model: Model, mini: Dataset) -> None:
    split = extraction(model, mini, Kept()).features(1)
    assert split.test_cf is not None
    assert torch.equal(split.test_cf.y, split.test.y)
    assert (split.test_cf.a != split.test.a).all()
    assert (split.test_cf.x != split.test.x).any(1).all()


def test_features_are_computed_once_for_each_cut(model: Model, mini: Dataset) -> None:
    cached = Kept()
    first = extraction(model, mini, cached)
    assert first.problem(1).train is first.features(1).train
    first.problem(1).cut(2)
    first.features(2)
    assert cached.built == 2
    again = extraction(model, mini, cached)
    assert torch.equal(again.features(1).val.x, first.features(1).val.x)
    assert cached.built == 2


def test_features_of_other_weights_are_others(model: Model, mini: Dataset) -> None:
    cached = Kept()
    extraction(model, mini, cached).features(1)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    extraction(model, mini, cached).features(1)
    assert cached.built == 2


def test_features_that_are_not_finite_are_an_error(model: Model, mini: Dataset) -> None:
    """Covers faults A8."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)  # each is finite
    with pytest.raises(FloatingPointError, match="training diverged"):
        extraction(model, mini, Kept()).features(1)


def test_a_problem_flips_rows_at_its_own_cut(model: Model, mini: Dataset) -> None:
    problem = extraction(model, mini, Kept()).problem(1)
    earlier, layers = problem.cut(2)
    rows = torch.tensor([5, 0])
    one, other = problem.counterfactual(rows), earlier.counterfactual(rows)
    assert torch.equal(one.a, other.a)
    assert torch.equal(one.y, mini.train.y[rows])
    torch.testing.assert_close(layers(other.x), model.head(one.x))


def test_clusters_go_with_their_samples(model: Model, mini: Dataset) -> None:
    cluster = mini.train.index // 2
    clustered = replace(mini, train=replace(mini.train, cluster=cluster))  # type: ignore[type-var]
    problem = extraction(model, clustered, Kept()).problem(1)
    rows = torch.tensor([5, 0])
    for features, expected in ((problem.train, cluster), (problem.counterfactual(rows), cluster[rows])):
        assert features.cluster is not None
        assert torch.equal(features.cluster, expected)
    assert problem.val.cluster is None


def relabelled(dataset: Dataset) -> Dataset:
    """The same inputs for another task: other labels, and samples of val and test in each other's place."""
    return replace(dataset, val=dataset.test, test=dataset.val, train=replace(dataset.train, y=1 - dataset.train.y))  # type: ignore[type-var]


def test_features_serve_every_task_on_the_same_inputs(model: Model, mini: Dataset) -> None:
    plain = replace(mini, flippable=False, inputs_key="digits")  # inputs are then a function of the id
    cached = Kept()
    one = extraction(model, plain, cached).features(1)
    direct = extraction(model, replace(mini, flippable=False), Kept()).features(1)
    other = extraction(model, relabelled(plain), cached).features(1)
    assert cached.built == 1
    for name in ("train", "val", "test", "pairs", "pairs_cf"):
        torch.testing.assert_close(getattr(one, name).x, getattr(direct, name).x)
        assert torch.equal(getattr(one, name).y, getattr(direct, name).y)
    assert torch.equal(other.val.x, one.test.x)
    assert torch.equal(other.train.y, 1 - one.train.y)
    extraction(model, replace(plain, inputs_key="other digits"), cached).features(1)
    assert cached.built == 2


def test_head_sees_features_in_place_of_inputs(model: Model, mini: Dataset) -> None:
    source = extraction(model, mini, Kept())
    data, rows = source.as_inputs(), torch.tensor([3, 0])
    assert data.input_shape == (10,)
    torch.testing.assert_close(data.val.inputs(rows), model.backbone(mini.val.inputs(rows)))
    assert torch.equal(data.train.y, mini.train.y)
