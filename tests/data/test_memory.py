from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from efface.data.base import Dataset
from efface.data.memory import first_rows, from_memory, require_repeatable
from efface.models.given import as_tensor

N = 200


def arrays(n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.integers(0, 2, n), rng.choice(["f", "m"], n)


def load(data: Any, classes: Sequence[Any] = (0, 1), **options: Any) -> Dataset:
    return from_memory(data, encode=lambda x: as_tensor(x).float(), classes=classes, **options)


def test_rows_are_dealt_out_by_label_and_attribute() -> None:
    x, y, a = arrays()
    data = load((x, y, a))
    assert [len(s) for s in (data.train, data.val, data.pairs.split, data.test)] == [120, 20, 20, 40]
    assert data.attributes == ("f", "m")
    index = torch.cat([data.train.index, data.val.index, data.pairs.split.index, data.test.index])
    assert sorted(index.tolist()) == list(range(N))
    np.testing.assert_allclose(data.test.inputs(torch.arange(40)), x[data.test.index], rtol=1e-6)
    assert np.array(data.attributes)[data.test.a].tolist() == a[data.test.index].tolist()
    assert abs(float(data.test.y.float().mean()) - y.mean()) < 0.05


def test_frames_tensors_and_loaders_give_the_same() -> None:
    x, y, a = arrays()
    expected = load((x, y, a)).fingerprint
    codes = torch.from_numpy((a == "m").astype(np.int64))
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y), codes), batch_size=32)
    assert load((pd.DataFrame(x), pd.Series(y), pd.Series(a))).fingerprint == expected
    assert load(loader).fingerprint == load((torch.from_numpy(x), torch.from_numpy(y), codes)).fingerprint == expected
    assert first_rows(loader).shape == (4, 3)
    assert first_rows((pd.DataFrame(x), y, a)).shape == (4, 3)


def test_named_splits_stay_and_pairs_come_from_train() -> None:
    x, y, a = arrays()
    cut = {"train": slice(0, 100), "val": slice(100, 140), "test": slice(140, 200)}
    data = load({name: (x[rows], y[rows], a[rows]) for name, rows in cut.items()})
    assert data.test.index.tolist() == list(range(140, 200))
    assert data.val.index.tolist() == list(range(100, 140))
    assert len(data.train) == 90
    assert sorted([*data.train.index.tolist(), *data.pairs.split.index.tolist()]) == list(range(100))


def test_given_pairs_are_kept_together() -> None:
    x, y, a = arrays()
    other = np.where(a == "f", "m", "f")
    parts = {
        "train": (x, y, a),
        "val": (x, y, a),
        "test": (x, y, a),
        "pairs": (x[:9], x[:9] + 1, y[:9], a[:9], other[:9]),
    }
    pairs = load(parts).pairs
    assert len(pairs) == 9
    torch.testing.assert_close(pairs.split.inputs(pairs.rows_cf), pairs.split.inputs(pairs.rows) + 1)
    assert bool((pairs.a != pairs.a_cf).all())
    assert bool((pairs.split.y[pairs.rows] == pairs.split.y[pairs.rows_cf]).all())


def test_people_are_never_dealt_to_two_splits() -> None:
    x, y, a = arrays()
    people = np.repeat(np.arange(N // 4), 4)
    data = load((x, y, a), people=people)
    splits = [data.train, data.val, data.pairs.split, data.test]
    owners = [set(people[split.index].tolist()) for split in splits]
    assert sum(map(len, owners)) == len(set.union(*owners)) == N // 4
    assert all(split.cluster is not None for split in splits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, a: (x, y), "data: there are 2 entries; data must be"),
        (lambda x, y, a: "people.csv", "data is a str; data must be"),
        (lambda x, y, a: (x, y[:-1], a), "must have as many rows"),
        (lambda x, y, a: (np.where(x > 2, np.nan, x), y, a), "data: x holds NaN or infinite values, first in row"),
        (lambda x, y, a: (x, y + 5, a), "y holds 5, 6, which the model does not know: its classes are 0, 1"),
        (lambda x, y, a: (x, y, a == "x"), "a holds only one value"),
        (lambda x, y, a: (x, y, np.stack([a, a], 1)), "must be of shape"),
        (lambda x, y, a: {"train": (x, y, a)}, "data has no test, val; its names are"),
        (lambda x, y, a: {"train": (x, y, a), "val": (x, y, a), "test": (x, y, a), "dev": (x, y, a)}, "data names dev"),
        (
            lambda x, y, a: {"train": (x, y, a), "val": (x[:9], y[:9] * 0, a[:9]), "test": (x, y, a)},
            "'val' has no sample",
        ),
        (lambda x, y, a: [], "data: there are 0 entries"),
    ],
)
def test_faults_are_named(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(change(*arrays()))


def test_people_follow_the_form_of_data() -> None:
    x, y, a = arrays()
    parts = {"train": (x, y, a), "val": (x, y, a), "test": (x, y, a)}
    with pytest.raises(ValueError, match="people must be a mapping of train, val, test"):
        load(parts, people=np.arange(N))
    with pytest.raises(ValueError, match="must have as many rows"):
        load((x, y, a), people=np.arange(N - 1))


def test_person_in_two_named_splits_is_refused() -> None:
    x, y, a = arrays()
    rows = {"train": slice(0, 100), "val": slice(100, 140), "test": slice(140, N)}
    people = np.arange(N)
    people[150] = 3
    parts = {name: (x[part], y[part], a[part]) for name, part in rows.items()}
    with pytest.raises(ValueError, match=r"data puts one identity into two splits, train \(row 3\) and test"):
        load(parts, people={name: people[part] for name, part in rows.items()})


def test_loaders_that_cannot_be_read_in_order_or_again_are_refused() -> None:
    x, y, a = (torch.from_numpy(values) for values in (*arrays()[:2], arrays()[2] == "m"))
    with pytest.raises(ValueError, match="people are in the order of the rows, but this loader shuffles"):
        load(DataLoader(TensorDataset(x, y, a.long()), shuffle=True), people=np.arange(N))
    with pytest.raises(ValueError, match="data is a generator, which can be read only once"):
        require_repeatable(rows for rows in [(x, y, a)])
    with pytest.raises(ValueError, match="val is a generator"):
        require_repeatable({"train": (x, y, a), "val": (rows for rows in [(x, y, a)])})


def with_counterfactuals(rows: slice = slice(None)) -> tuple[np.ndarray, ...]:
    x, y, a = arrays()
    return x[rows], x[rows] + 1, y[rows], a[rows], np.where(a == "f", "m", "f")[rows]


def test_counterfactuals_stay_with_their_samples_where_rows_are_dealt_out() -> None:
    people = np.repeat(np.arange(N // 4), 4)
    data, plain = load(with_counterfactuals(), people=people), load(arrays(), people=people)
    assert data.fingerprint != plain.fingerprint
    for pairs, split, other in (
        (data.val_pairs, data.val, plain.val),
        (data.test_pairs, data.test, plain.test),
        (data.pairs, None, plain.pairs.split),
    ):
        assert pairs.counterfactual
        assert torch.equal(pairs.split.index[pairs.rows], other.index)
        assert split is None or torch.equal(split.index, other.index)
        torch.testing.assert_close(pairs.split.inputs(pairs.rows_cf), other.inputs(torch.arange(len(other))) + 1)
        assert bool((pairs.a != pairs.a_cf).all())
        assert pairs.split.cluster is not None
        assert torch.equal(pairs.split.cluster[pairs.rows], pairs.split.cluster[pairs.rows_cf])
    assert torch.equal(data.train.index, plain.train.index)


def test_counterfactuals_of_one_split_are_of_that_split_only() -> None:
    x, y, a = arrays()
    parts: dict[str, Any] = {"train": (x[:100], y[:100], a[:100]), "val": (x[100:140], y[100:140], a[100:140])}
    data = load({**parts, "test": with_counterfactuals(slice(140, N))})
    plain = load({**parts, "test": (x[140:], y[140:], a[140:])})
    assert data.test_pairs.counterfactual
    assert not data.val_pairs.counterfactual
    assert torch.equal(data.test.inputs(torch.arange(60)), plain.test.inputs(torch.arange(60)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, x_cf, y, a, a_cf: (x, x_cf, y, a, a), "data: a_cf equals a in 200 of 200 rows, first in row 0"),
        (
            lambda x, x_cf, y, a, a_cf: (x, x_cf[:-1], y, a, a_cf),
            "data: a row of x_cf is the counterfactual of that row",
        ),
        (lambda x, x_cf, y, a, a_cf: (x, x_cf[:, :2], y, a, a_cf), r"x is \[200, 3\], x_cf \[200, 2\]"),
        (lambda x, x_cf, y, a, a_cf: (x, x_cf, y, a, a_cf[:-1]), "as many rows"),
        (lambda x, x_cf, y, a, a_cf: (x, y, a, x_cf), "there are 4 entries; data must be .*, with counterfactuals"),
        (
            lambda x, x_cf, y, a, a_cf: (x, y, a, x_cf, a_cf),
            r"must be of shape .*; data must be .*\(x, x_cf, y, a, a_cf\)",
        ),
        (
            lambda x, x_cf, y, a, a_cf: (x, x_cf, y, a, np.where(a == "f", "m", "x")),
            "a_cf holds x, which no sample has",
        ),
        (lambda x, x_cf, y, a, a_cf: (x, x_cf * np.nan, y, a, a_cf), "x_cf holds NaN or infinite values, first in row"),
    ],
)
def test_wrong_counterfactuals_are_named(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(change(*with_counterfactuals()))
