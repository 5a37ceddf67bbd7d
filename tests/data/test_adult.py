import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data import adult_files

from efface.data import adult
from efface.data.adult import Adult, read
from efface.data.base import Dataset
from efface.data.preprocessing import Column, fit_preprocessing

SIZES = {"n_val": 200, "n_pairs": 100, "min_rows": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adult_files.write(tmp_path_factory.mktemp("adult"))


def load(folder: Path, **options: object) -> Dataset:
    source = Adult(**{**SIZES, **options})  # type: ignore[arg-type]
    return source.load(data_dir=folder, cache_dir=folder, seed=0)


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return load(folder)


def everyone(data: Dataset) -> list:
    return [data.train, data.val, data.pairs.split, data.test]


def test_splits_are_the_official_test_and_parts_of_train(data: Dataset, folder: Path) -> None:
    whole = [1400 - 70, 800 - 40]  # without the rows with a missing value
    assert [len(split) for split in everyone(data)] == [whole[0] - 300, 200, 100, whole[1]]
    assert (data.test.index >= 1400).all()
    assert all((split.index < 1400).all() for split in everyone(data)[:3])
    assert len(torch.cat([split.index for split in everyone(data)]).unique()) == sum(whole)
    for split in everyone(data)[1:3]:
        assert float(split.y.double().mean()) == pytest.approx(float(data.train.y.double().mean()), abs=0.01)
        assert float(split.a.double().mean()) == pytest.approx(float(data.train.a.double().mean()), abs=0.01)
    other = load(folder, attribute="race")
    assert all(torch.equal(one.index, two.index) for one, two in zip(everyone(data), everyone(other), strict=True))
    assert not torch.equal(other.train.a, data.train.a)


def test_labels_and_attributes_are_those_of_the_files(data: Dataset, folder: Path) -> None:
    rows = read(folder / "adult" / "adult.data")
    taken = rows.iloc[data.val.index.numpy()]
    assert [data.classes[i] for i in data.val.y] == taken["income"].tolist()
    assert [data.attributes[i] for i in data.val.a] == taken["sex"].tolist()
    race = load(folder, attribute="race")
    assert race.attributes == ("other", "White")
    assert ((race.val.a == 1).numpy() == (taken["race"] == "White")).all()


def test_features_are_fitted_on_train_only(data: Dataset, folder: Path) -> None:
    split = data.train
    columns = split.columns  # type: ignore[attr-defined]
    x = split.inputs(torch.arange(len(split)))
    assert x.dtype == torch.float32
    assert data.input_shape == (len(columns),)
    assert "fnlwgt" not in columns
    age = columns.index("age")
    assert float(x[:, age].mean()) == pytest.approx(0, abs=1e-5)
    assert float(x[:, age].std(correction=0)) == pytest.approx(1, abs=1e-5)
    rows = read(folder / "adult" / "adult.data")["age"]
    of_train = rows.iloc[split.index.numpy()]
    expected = (rows.iloc[data.val.index.numpy()] - of_train.mean()) / of_train.std(ddof=0)
    np.testing.assert_allclose(data.val.inputs(torch.arange(200))[:, age], expected, atol=1e-5)
    # One-hot: every person has one category of each column, every category its rows in train.
    education = [i for i, name in enumerate(columns) if name.startswith("education=")]
    assert (x[:, education].sum(1) == 1).all()
    indicators = [i for i, name in enumerate(columns) if "=" in name]
    assert set(x[:, indicators].unique().tolist()) == {0.0, 1.0}
    assert x[:, indicators].sum(0).min() >= SIZES["min_rows"]


def test_rare_categories_are_merged_and_unknown_ones_join_them() -> None:
    import pandas as pd

    train = pd.DataFrame({"c": ["a"] * 50 + ["b"] * 40 + ["c"] * 12 + ["d"] * 3 + [None] * 2})
    rows = pd.DataFrame({"c": ["a", "b", "c", "d", None, "new"]})
    # d has too few rows, and stays too small alone: the next rarest, c, joins it.
    merged = fit_preprocessing(train, [Column("c", "category")], 10)
    assert merged.columns == ("c=a", "c=b", "c=(rare)")
    assert merged.transform(rows).argmax(1).tolist() == [0, 1, 2, 2, 0, 2]  # the most frequent in place of a gap
    unmerged = fit_preprocessing(train, [Column("c", "category")], 2)
    assert unmerged.columns == ("c=a", "c=b", "c=c", "c=d")
    assert unmerged.transform(rows).argmax(1).tolist() == [0, 1, 2, 3, 0, 0]  # unknown, and nothing is merged


def test_imputing_keeps_all_rows(folder: Path) -> None:
    data = load(folder, missing="impute")
    assert len(data.test) == 800
    assert sum(len(split) for split in everyone(data)) == 2200
    columns = data.train.columns  # type: ignore[attr-defined]
    people = read(folder / "adult" / "adult.test")
    gaps = torch.tensor((people["occupation"] == "?").tolist())
    frequent = people["occupation"].value_counts().index[0]
    assert (data.test.x[gaps, columns.index(f"occupation={frequent}")] == 1).all()  # type: ignore[attr-defined]


def test_flipping_changes_only_the_attribute_column(data: Dataset) -> None:
    (column,) = data.attribute_columns or ()
    rows = torch.arange(50)
    x, flipped = data.test.inputs(rows), data.test.inputs(rows, a=1 - data.test.a[:50])
    assert torch.equal(x[:, column].long(), data.test.a[:50])
    assert torch.equal(flipped[:, column].long(), 1 - data.test.a[:50])
    others = torch.arange(x.shape[1]) != column
    assert torch.equal(x[:, others], flipped[:, others])
    assert torch.equal(data.test.inputs(rows), x)  # the table itself is as it was
    assert data.flippable
    assert data.per_sample_inputs is False
    assert torch.equal(data.pairs.a_cf, 1 - data.pairs.a)
    assert torch.equal(data.pairs.rows, data.pairs.rows_cf)


def test_aif360_metrics_work_on_our_splits(data: Dataset) -> None:
    from aif360.algorithms.preprocessing import Reweighing
    from aif360.datasets import BinaryLabelDataset
    from aif360.metrics import BinaryLabelDatasetMetric

    from efface.data.groups import kamiran_calders

    ours = data.train.aif360()  # type: ignore[attr-defined]
    assert isinstance(ours, BinaryLabelDataset)
    assert ours.protected_attribute_names == ["race", "sex"] or ours.protected_attribute_names == ["sex", "race"]
    assert (ours.favorable_label, ours.unfavorable_label) == (1.0, 0.0)
    np.testing.assert_allclose(ours.features, data.train.x, atol=1e-6)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(ours.labels[:, 0], data.train.y)
    assert ours.instance_names == [str(i) for i in data.train.index.tolist()]
    groups = {"privileged_groups": [{"sex": 1}], "unprivileged_groups": [{"sex": 0}]}
    y, a = data.train.y.double(), data.train.a
    parity = float(y[a == 0].mean() - y[a == 1].mean())
    assert BinaryLabelDatasetMetric(ours, **groups).statistical_parity_difference() == pytest.approx(parity)
    reweighed = Reweighing(**groups).fit_transform(ours)
    expected = kamiran_calders(data.train.y, data.train.a, 2, 2)
    np.testing.assert_allclose(reweighed.instance_weights, expected, rtol=1e-6)


def test_fingerprint_changes_with_the_files(folder: Path, tmp_path: Path) -> None:
    other = adult_files.write(tmp_path / "other", n_train=1300)
    assert Adult().fingerprint(folder) == Adult().fingerprint(folder)
    assert Adult().fingerprint(folder) != Adult().fingerprint(other)


def change(folder: Path, line: int, edit: object) -> Path:
    file = folder / "adult" / "adult.data"
    lines = file.read_text().splitlines()
    lines[line - 1] = edit(lines[line - 1])  # type: ignore[operator]
    file.write_text("\n".join(lines))
    return folder


def swapped(line: str, i: int, j: int) -> str:
    fields = line.split(", ")
    fields[i], fields[j] = fields[j], fields[i]
    return ", ".join(fields)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda line: line + ", 1", r"adult.data, line 7: 16 columns, but there must be 15: age, workclass"),
        (lambda line: line.rsplit(",", 1)[0], r"adult.data, line 7: 14 columns"),
        (lambda line: "old" + line, r"adult.data, line 7: age is 'old\d+', but must be a number"),
        (lambda line: line.rsplit(",", 1)[0] + ", 60K", r"line 7: income is '60K', but must be <=50K or >50K"),
        (lambda line: line.replace("Male", "male").replace("Female", "f"), r"line 7: sex is '(fe)?male|f'"),
        (lambda line: line.replace("White", "white").replace("Black", "black"), r"line 7: race is '(white|black)'"),
        (lambda line: re.sub(r"White|Black", "?", line), r"line 7: race is '\?', but must be one of Amer"),
        (lambda line: swapped(line, 1, 3), r"line 7: workclass is '.*', but must be one of Federal-gov, .*, \?"),
        (lambda line: swapped(line, 5, 7), "line 7: marital-status is '.*', but must be one of"),
        (lambda line: "inf" + line[2:], "line 7: age is 'inf', but must be a number"),
        (lambda line: "nan" + line[2:], "line 7: age is 'nan', but must be a number"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, edit: object, message: str) -> None:
    """Covers faults B15, Adult."""
    with pytest.raises(ValueError, match=message):
        load(change(adult_files.write(tmp_path / "bad"), 7, edit))


def test_encodings(folder: Path, tmp_path: Path) -> None:
    """Covers faults B15: latin-1 is named with file and line, a byte order mark is none of the text."""
    file = adult_files.write(tmp_path) / "adult" / "adult.data"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"Mexico", b"M\xe9xico", 1))
    with pytest.raises(ValueError, match=r"adult.data, line \d+ is not in UTF-8"):
        load(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert torch.equal(load(tmp_path).train.x, load(folder).train.x)  # type: ignore[attr-defined]


def test_empty_file_is_named(tmp_path: Path) -> None:
    adult_files.write(tmp_path / "empty")
    (tmp_path / "empty" / "adult" / "adult.test").write_text("\n")
    with pytest.raises(ValueError, match=r"adult\.test has no rows"):
        load(tmp_path / "empty")


def test_missing_files_name_the_folder_searched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adult, "_URL", "http://127.0.0.1:9/")
    before = set(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path)
    assert set(tmp_path.iterdir()) == before
    for part in (str(tmp_path / "adult" / "adult.data"), "could they be downloaded", "adult.test", "DATA_DIR"):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match="set data_dir to the folder above"):
        load(folder / "adult")


def test_download_is_checked(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served").mkdir()
    source = {name: (folder / "adult" / name).read_bytes() for name in ("adult.data", "adult.test")}
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(source[self.path[1:]])))
            self.end_headers()
            self.wfile.write(source[self.path[1:]])

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(adult, "_URL", f"http://127.0.0.1:{server.server_port}/")
    try:
        with pytest.raises(FileNotFoundError, match="hash"):
            load(tmp_path / "one")
        assert not list((tmp_path / "one").rglob("adult.*"))  # nothing wrong is left in the place of the file
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in source.items()}
        monkeypatch.setattr(adult, "_SHA256", hashes)
        assert len(load(tmp_path / "two").train) == 1030
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attribute": "Sex"}, r"attribute is 'Sex', but must be sex \| race"),
        ({"attribute": "income"}, "attribute is 'income', but must be sex"),
        ({"missing": "mean"}, "missing is 'mean'"),
        ({"n_val": 0}, "n_val is 0, but must be an integer >= 1"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adult(**options)


def test_too_few_rows_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"n_val=1300 and n_pairs=100 leave no train of the 1330 rows"):
        load(folder, n_val=1300)


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with adult/")
def test_real_files_load() -> None:
    data = Adult().load(data_dir=Path(os.environ["DATA_DIR"]), cache_dir=Path(), seed=0)
    assert [len(split) for split in everyone(data)] == [25_162, 3_000, 2_000, 15_060]
    train = data.train.x  # type: ignore[attr-defined]
    assert (train != train.mode(0)[0]).sum(0).min() >= 100
    impute = Adult(missing="impute").load(data_dir=Path(os.environ["DATA_DIR"]), cache_dir=Path(), seed=0)
    assert [len(split) for split in everyone(impute)] == [27_561, 3_000, 2_000, 16_281]
