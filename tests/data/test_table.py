"""dataset=table: people in the columns of UCI Adult, as a CSV of one's own."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.data import adult_files

from efface.data.adult import COLUMNS, Adult, read
from efface.data.base import Dataset
from efface.data.preprocessing import TablePreprocessing
from efface.data.table import Table
from efface.files import file_digest
from efface.runs import base
from efface.runs.grid import GridRun

SIZES = {"n_val": 200, "n_pairs": 100, "min_rows": 30}
TASK = {"target": "income", "positive": ">50K", "protected": ["sex"], "drop": ["fnlwgt"], "min_rows": 30}


N = 600


def save(folder: Path, **columns: object) -> str:
    """Six hundred people, with columns added or replaced; those that are None are left out."""
    frame = pd.DataFrame(adult_files.people(N, 0), columns=list(COLUMNS))
    frame = frame.assign(**{name: values for name, values in columns.items() if values is not None})
    frame = frame.drop(columns=[name for name, values in columns.items() if values is None])
    frame.to_csv(folder / "people.csv", index=False)
    return str(folder / "people.csv")


def load(path: object, **options: object) -> Dataset:
    source = Table(**{"path": path if isinstance(path, dict) else str(path), **TASK, **options})  # type: ignore[arg-type]
    return source.load(data_dir=Path("nowhere"), cache_dir=Path(), seed=0)


def everyone(data: Dataset) -> list:
    return [data.train, data.val, data.pairs.split, data.test]


def require_equal(one: Dataset, other: Dataset) -> None:
    """Same people, inputs, labels, counterfactuals and pairs."""
    assert (one.classes, one.attributes, one.attribute_columns) == (
        other.classes,
        other.attributes,
        other.attribute_columns,
    )
    for mine, theirs in zip(everyone(one), everyone(other), strict=True):
        assert torch.equal(mine.y, theirs.y)
        assert torch.equal(mine.a, theirs.a)
        assert torch.equal(mine.x, theirs.x)
        rows = torch.arange(len(mine))
        assert torch.equal(mine.inputs(rows, a=1 - mine.a), theirs.inputs(rows, a=1 - theirs.a))
    for mine, theirs in (
        (one.pairs, other.pairs),
        (one.val_pairs, other.val_pairs),
        (one.test_pairs, other.test_pairs),
    ):
        assert torch.equal(mine.rows, theirs.rows)
        assert torch.equal(mine.a_cf, theirs.a_cf)


def adult_as_csv(data_dir: Path, target: Path, data: Dataset) -> str:
    """Both files of Adult in one, with the splits of a loaded data set in a column, and race as Adult has it."""
    rows = pd.concat([read(data_dir / "adult" / name) for name in ("adult.data", "adult.test")], ignore_index=True)
    rows["race"] = rows["race"].where(rows["race"] == "White", "other")
    names = np.full(len(rows), "", dtype=object)
    for name, split in zip(("train", "val", "pairs", "test"), everyone(data), strict=True):
        names[split.index.numpy()] = name
    rows = rows.assign(split=names)[names != ""]
    rows.to_csv(target / "adult.csv", index=False)
    return str(target / "adult.csv")


@pytest.mark.parametrize(("attribute", "missing"), [("sex", "drop"), ("race", "impute")])
def test_adult_as_a_csv_is_adult(tmp_path: Path, attribute: str, missing: str) -> None:
    folder = adult_files.write(tmp_path)
    adult = Adult(**SIZES, attribute=attribute, missing=missing).load(data_dir=folder, cache_dir=folder, seed=0)  # type: ignore[arg-type]
    # The made-up people have two values here, which make one column, where Adult has one for each.
    two = ["workclass", "marital-status"]
    path = adult_as_csv(folder, tmp_path, adult)
    table = load(path, protected=[attribute], split="split", missing=missing, drop=["fnlwgt", *two])
    columns = [adult.train.columns.index(name) for name in table.train.columns if name != "occupation"]  # type: ignore[attr-defined]
    mine = [i for i, name in enumerate(table.train.columns) if name != "occupation"]  # type: ignore[attr-defined]
    assert len(mine) > 25
    for split, theirs in zip(everyone(table), everyone(adult), strict=True):
        assert torch.equal(split.y, theirs.y)
        assert torch.equal(split.a, theirs.a)
        assert torch.equal(split.x[:, mine], theirs.x[:, columns])
        rows = torch.arange(len(split))
        flipped = split.inputs(rows, a=1 - split.a), theirs.inputs(rows, a=1 - theirs.a)
        assert torch.equal(flipped[0][:, mine], flipped[1][:, columns])
    assert torch.equal(table.pairs.a_cf, adult.pairs.a_cf)
    assert (table.classes, table.attributes) == (adult.classes, adult.attributes)


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with adult/")
@pytest.mark.parametrize("attribute", ["sex", "race"])
def test_real_adult_as_a_csv_is_adult_bit_by_bit(tmp_path: Path, attribute: str) -> None:
    data_dir = Path(os.environ["DATA_DIR"])
    adult = Adult(attribute=attribute).load(data_dir=data_dir, cache_dir=tmp_path, seed=0)  # type: ignore[arg-type]
    table = load(adult_as_csv(data_dir, tmp_path, adult), protected=[attribute], split="split", min_rows=None)
    require_equal(table, adult)
    for data, name in ((adult, "adult"), (table, "table")):
        assert data.preprocessing is not None
        data.preprocessing.save(tmp_path / name)
    assert (tmp_path / "adult").read_bytes() == (tmp_path / "table").read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(save(tmp_path_factory.mktemp("table")))


def test_kinds_of_columns(data: Dataset) -> None:
    train = data.train
    names = train.columns  # type: ignore[attr-defined]
    # In the order of the file: numbers and columns of two values, then one-hot ones.
    assert names[:5] == ("age", "workclass", "education-num", "marital-status", "occupation")
    assert names[-1] == "native-country=(rare)"  # so few are from elsewhere that nothing is left to tell apart
    x = train.inputs(torch.arange(len(train)))
    assert float(x[:, 0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(x[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert set(x[:, 1].tolist()) == {0.0, 1.0}
    education = [i for i, name in enumerate(names) if name.startswith("education=")]
    assert (x[:, education].sum(1) == 1).all()
    assert x[:, education].sum(0).min() >= 30
    assert data.attribute_columns == (names.index("sex"),)
    assert data.flippable


def test_file_formats_agree(tmp_path: Path, data: Dataset) -> None:
    frame = pd.read_csv(save(tmp_path))
    frame.to_parquet(tmp_path / "people.parquet")
    frame.to_feather(tmp_path / "people.feather")
    frame.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "semicolons.csv", sep=";", index=False, encoding="utf-8-sig")
    for name in ("people.parquet", "people.feather", "people.tsv"):
        require_equal(load(tmp_path / name), data)
    require_equal(load(tmp_path / "semicolons.csv", separator=";"), data)


def test_splits_may_be_files(tmp_path: Path, data: Dataset) -> None:
    frame = pd.read_csv(save(tmp_path))
    order = [split.index.numpy() for split in everyone(data)]
    for name, rows in zip(("train", "dev-1", "pairs", "test"), order, strict=True):
        frame.iloc[rows].to_csv(tmp_path / f"{name}.csv", index=False)
    path = {"train": "train.csv", "dev": "dev-*.csv", "pairs": "pairs.csv", "test": "test.csv"}
    source = Table(path=path, **TASK)  # type: ignore[arg-type]
    whole = source.load(data_dir=tmp_path, cache_dir=Path(), seed=0)
    for mine, theirs in zip(everyone(whole), everyone(data), strict=True):
        assert torch.equal(mine.x, theirs.x)


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (["train", "val", "pairs", "test"], [150, 150, 150, 150]),
        ([0, 1, 2, 0], [300, 75, 75, 150]),
        (["Train", "dev", "test", "train"], [300, 75, 75, 150]),
        (["train", "train", "train", "test"], [339, 56, 55, 150]),
    ],
)
def test_split_column_names_the_parts(tmp_path: Path, names: list, sizes: list[int]) -> None:
    data = load(save(tmp_path, part=np.array(names * (N // 4))), split="part")
    counts = [len(split) for split in everyone(data)]
    assert counts[0] + counts[1] + counts[2] == sum(sizes[:3])
    assert np.abs(np.array(counts) - sizes).max() <= 1
    assert "part" not in data.train.columns  # type: ignore[attr-defined]
    index = torch.cat([split.index for split in everyone(data)])
    assert torch.equal(index.sort().values, torch.arange(N))
    rates = [float(split.y.double().mean()) for split in everyone(data)[1:3]]
    assert rates[0] == pytest.approx(rates[1], abs=0.05)


def test_people_are_never_apart(tmp_path: Path) -> None:
    path = save(tmp_path, person=[f"person {i // 3}" for i in range(N)])
    data = load(path, people="person")
    clusters = [set(split.cluster.tolist()) for split in everyone(data)]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == N // 3
    assert [len(split) for split in everyone(data)] == pytest.approx([360, 60, 60, 120], abs=6)
    assert not any("person" in name for name in data.train.columns)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"puts one identity into two splits, train \(row 0\) and val \(row 1"):
        load(
            save(tmp_path, person=[i // 3 for i in range(N)], part=["train", "val", "test"] * 200),
            people="person",
            split="part",
        )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("client", [f"c{i // 3}" for i in range(N)]),
        ("customerID", [10_000 + 7 * (i // 4) for i in range(N)]),
        ("Patient no", [i % 99 for i in range(N)]),
        ("user", [i // 2 for i in range(N)]),
    ],
)
def test_identifier_of_several_rows_is_noticed(tmp_path: Path, name: str, values: list) -> None:
    message = f"column '{name}' may be an identifier.*'dataset.people={name}'.*'dataset.drop=.{name}.'"
    with pytest.warns(UserWarning, match=message):
        load(save(tmp_path, **{name: values}))
    load(save(tmp_path, **{name: values}), people=name)
    load(save(tmp_path, **{name: values}), drop=[name])


def test_amounts_and_few_values_are_no_identifiers(tmp_path: Path) -> None:
    paid, rate = [137 * (i // 2) for i in range(N)], [i / 7 for i in range(N)]
    load(save(tmp_path, paid=paid, id=rate, number=[i % 20 for i in range(N)], shop=[f"s{i % 50}" for i in range(N)]))


def test_several_protected_columns_make_cells(tmp_path: Path) -> None:
    data = load(save(tmp_path, origin=np.arange(N) % 3), protected=["sex", "origin"])
    assert data.attributes == tuple(f"{sex}, origin={i}" for sex in ("Female", "Male") for i in range(3))
    names = data.train.columns  # type: ignore[attr-defined]
    origins = [names.index(f"origin={i}") for i in range(3)]
    assert data.attribute_columns == (names.index("sex"), *origins)
    rows = torch.arange(50)
    x, flipped = data.test.inputs(rows), data.test.inputs(rows, a=(data.test.a[:50] + 1) % 6)
    others = [i for i in range(len(names)) if i not in (data.attribute_columns or ())]
    assert torch.equal(x[:, others], flipped[:, others])
    cell = flipped[:, names.index("sex")] * 3 + flipped[:, origins].argmax(1)
    assert torch.equal(cell.long(), (data.test.a[:50] + 1) % 6)
    assert (flipped[:, origins].sum(1) == 1).all()


def test_protected_columns_may_be_no_inputs(tmp_path: Path) -> None:
    data = load(save(tmp_path), protected_inputs=False)
    assert "sex" not in data.train.columns  # type: ignore[attr-defined]
    assert not data.flippable
    assert data.attribute_columns is None
    split = data.pairs.split
    assert (split.y[data.pairs.rows] == split.y[data.pairs.rows_cf]).all()
    assert (data.pairs.a != data.pairs.a_cf).all()
    with pytest.raises(ValueError, match="a: these data hold no counterfactual"):
        data.test.inputs(torch.arange(2), a=torch.zeros(2, dtype=torch.int64))


def test_labels_may_be_words_of_many_classes(tmp_path: Path) -> None:
    data = load(save(tmp_path), target="relationship", positive=None)
    assert data.classes == ("Husband", "Not-in-family", "Wife")
    data = load(save(tmp_path), target="relationship", positive="Wife")
    assert data.classes == ("not Wife", "Wife")


def test_missing_inputs_are_imputed_by_train_or_dropped(tmp_path: Path) -> None:
    age = np.where(np.arange(N) % 10 == 0, "", (20 + np.arange(N) % 50).astype(str))
    work = np.where(np.arange(N) % 10 == 1, "?", np.array(["Private", "State", "Self"])[np.arange(N) % 3])
    data = load(save(tmp_path, age=age, workclass=work))
    train = data.train
    gaps = torch.from_numpy(age[train.index.numpy()] == "")
    median = np.median(age[train.index.numpy()][~gaps.numpy()].astype(float))
    known = torch.from_numpy(age[train.index.numpy()] == str(int(median)))
    assert torch.equal(train.x[gaps, 0].unique(), train.x[known, 0].unique())  # type: ignore[attr-defined]
    assert sum(map(len, everyone(data))) == N
    data = load(save(tmp_path, age=age, workclass=work), missing="drop")
    assert sum(map(len, everyone(data))) == N * 8 // 10


def test_preprocessing_is_saved_without_pickle_and_reads_new_rows(tmp_path: Path, data: Dataset) -> None:
    preprocessing = data.preprocessing
    assert isinstance(preprocessing, TablePreprocessing)
    preprocessing.save(tmp_path / "one.skops")
    load(save(tmp_path)).preprocessing.save(tmp_path / "two.skops")  # type: ignore[union-attr]
    assert (tmp_path / "one.skops").read_bytes() == (tmp_path / "two.skops").read_bytes()
    again = TablePreprocessing.load(tmp_path / "one.skops")
    assert again.columns == preprocessing.columns
    rows = pd.read_csv(tmp_path / "people.csv").iloc[data.test.index.numpy()]
    assert torch.equal(again.transform(rows), data.test.x)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="frame: the table has no column 'age': did you mean"):
        again.transform(rows.drop(columns="age"))


def test_a_run_leaves_the_preprocessing(tmp_path: Path, parts_of: Callable[..., GridRun]) -> None:
    options = ["target=income", "positive='>50K'", "protected=[sex]", "drop=[fnlwgt]", "min_rows=30"]
    cheap = ("training.epochs=1", "evaluation.mlp_probe=false", "evaluation.bootstrap=0", "method=unaware")
    run = parts_of("dataset=table", f"dataset.path={save(tmp_path)}", *(f"dataset.{o}" for o in options), *cheap)
    record = base.execute(run, say=lambda message: None)
    assert record.status == "done"
    assert record.artifacts["preprocessing.skops"] == file_digest(run.directory / "preprocessing.skops")


def test_splits_give_aif360_data(data: Dataset) -> None:
    ours = data.test.aif360()  # type: ignore[attr-defined]
    assert ours.protected_attribute_names == ["sex"]
    np.testing.assert_array_equal(ours.labels[:, 0], data.test.y)
    with pytest.raises(ValueError, match="knows two classes"):
        replace(data.test, classes=("a", "b", "c")).aif360()  # type: ignore[type-var, attr-defined]
