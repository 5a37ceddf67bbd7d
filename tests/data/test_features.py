import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from efface.data.base import Dataset
from efface.data.features import FeatureFile


def arrays(n: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.choice(["cat", "dog"], n)
    return {"x": rng.normal(size=(n, 5)), "y": y, "a": rng.integers(0, 3, n) * 10}


def save(folder: Path, **changes: np.ndarray) -> str:
    path = folder / "my.npz"
    np.savez(path, **{**arrays(), **changes})
    return str(path)


def load(path: str, **options: object) -> Dataset:
    source = FeatureFile(path=path, **options)  # type: ignore[arg-type]
    return source.load(data_dir=Path(), cache_dir=Path(), seed=0)


def test_split_by_ratio(tmp_path: Path) -> None:
    data = load(save(tmp_path), ratios=[0.5, 0.1, 0.2, 0.2], standardise=False)
    assert [len(s) for s in (data.train, data.val, data.pairs.split, data.test)] == [100, 20, 40, 40]
    assert data.classes == ("cat", "dog")
    assert data.attributes == ("0", "10", "20")
    assert data.input_shape == (5,)
    assert not data.flippable
    source = arrays()
    np.testing.assert_allclose(data.test.inputs(torch.arange(40)), source["x"][data.test.index], rtol=1e-6)
    assert [data.classes[i] for i in data.test.y] == source["y"][data.test.index].tolist()


def test_split_column_decides_the_parts(tmp_path: Path) -> None:
    names = np.array(["train", "val", "pairs", "test"])[np.arange(200) % 4]
    data = load(save(tmp_path, split=names))
    assert data.val.index.tolist() == list(range(1, 200, 4))


def test_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    source = FeatureFile(path=save(tmp_path))
    before = source.fingerprint(Path())
    save(tmp_path, a=np.arange(200) % 2)
    assert source.fingerprint(Path()) != before


NAN = arrays()["x"].copy()
NAN[7, 3] = np.nan
HUGE = arrays()["x"].copy()
HUGE[5, 2] = -1e20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": NAN}, r"x in .*my.npz has 1 NaN or infinite values, the first in row 7, column 3"),
        ({"x": np.zeros(200)}, "must be numbers of shape"),
        ({"y": np.zeros(199, int)}, "different lengths"),
        ({"y": np.zeros(200, int)}, "y holds only one value, 0"),
        ({"a": np.zeros((200, 1), int)}, "a has shape .* must be integers or strings"),
        ({"a": np.arange(200) / 2}, "a has dtype float64 and holds 0.5 in row 1, but must be integers"),
        ({"y": np.full(200, np.nan)}, "y has dtype float64 and holds nan in row 0"),
        ({"x": HUGE}, r"x in .*my.npz holds 1e\+20 in column 2: beyond 1e\+15 .* dataset.standardise=true"),
        ({"x": np.zeros((200, 0))}, r"x in .* has shape \(200, 0\) .* must be numbers of shape \[n, d\], n and d > 0"),
        ({"x": arrays()["x"] + 1e9}, r"a spread of .* around .* in column 0, which float32 cannot hold"),
        ({"x": np.arange(1000).reshape(200, 5) + 2**40}, "in column 0, which float32 cannot hold"),
        ({"x": arrays()["x"] * 1j}, "must be numbers of shape"),
        ({"a": np.array(["f", "m", np.nan])[np.arange(200) % 3]}, r"a holds 'nan' in row 2, .* a missing value: drop"),
        ({"a": np.where(np.arange(200) < 7, "", "m")}, "a holds '' in row 0, which stands for a missing value"),
        ({"y": np.array(["yes", "no", "None"])[np.arange(200) % 3]}, "y holds 'None' in row 2"),
        (
            {"a": np.arange(200) % 4 // 2, "split": np.array(["train", "val", "pairs", "test"])[[0, 1, 3, 3] * 50]},
            "every sample of train in .*my.npz has the attribute '0'; two or more are needed",
        ),
        ({"y": np.arange(200)}, r"has no sample of class .* and \d+ more \(.*\): give it some"),
        ({"a": np.array(["f", "m", "m "])[np.arange(200) % 3]}, "a holds 'f', 'm', 'm ', .* differ in blanks: strip"),
        ({"a": np.array([b"\xff", b"m"])[np.arange(200) % 2]}, "a holds bytes that are not in UTF-8"),
        ({"split": np.array([b"tr\xff"] * 200)}, "split holds bytes that are not in UTF-8"),
        ({"split": np.full((200, 1), "train")}, r"split in .* has shape \(200, 1\), but must be \[n\]"),
        ({"split": np.array(["train"] * 200)}, "gives no row to val, test"),
        ({"split": np.array(["training"] * 200)}, "may only hold train, val, pairs, test"),
        ({"y": np.array([["a"]] * 200, dtype=object)}, "cannot be read"),
        (
            {"y": np.repeat([0, 1], 100), "split": np.repeat(["train", "val", "test"], [150, 25, 25])},
            "split 'val' has no sample of class 0",
        ),
    ],
)
def test_bad_arrays(tmp_path: Path, changes: dict, message: str) -> None:
    """Covers faults B15, features."""
    with pytest.raises(ValueError, match=message):
        load(save(tmp_path, **changes), standardise=False)


def test_constant_that_float32_cannot_hold_exactly_is_taken(tmp_path: Path) -> None:
    x = arrays()["x"].astype(np.float64)
    x[:, 2] = 0.1
    data = load(save(tmp_path, x=x), standardise=False)
    assert data.train.inputs(torch.arange(3))[:, 2].tolist() == [np.float32(0.1)] * 3


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"numpy.savez\(path"):
        load(str(tmp_path / "none.npz"))
    (tmp_path / "broken.npz").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="cannot be read"):
        load(str(tmp_path / "broken.npz"))
    np.savez(tmp_path / "part.npz", x=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="has no array y, a"):
        load(str(tmp_path / "part.npz"))
    with pytest.raises(ValueError, match="ratios is"):
        FeatureFile(path="x", ratios=[1.0, 0, 0, 0])
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("x", "no array")
    with pytest.raises(ValueError, match=r"cannot be read .x is no array"):
        load(str(tmp_path / "text.npz"))
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file, file.open("x.npy", "w") as member:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
        np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(ValueError, match="cannot be read"):
        load(str(tmp_path / "huge.npz"))
    np.save(tmp_path / "one.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"it is one array of shape \(3, 2\).*numpy.savez\(path"):
        load(str(tmp_path / "one.npy"))


def test_whole_floats_are_labels(tmp_path: Path) -> None:
    source = arrays()
    data = load(save(tmp_path, y=(source["y"] == "dog").astype(np.float32), a=source["a"].astype(float)))
    assert data.classes == ("0", "1")
    assert data.attributes == ("0", "10", "20")
    assert torch.equal(data.train.y, load(save(tmp_path)).train.y)


def test_standardising_uses_train_and_takes_any_scale(tmp_path: Path) -> None:
    x = arrays()["x"] * np.array([1e20, 1e-20, 1, 1, 0]) + np.array([1e20, 1, 1e6, 0, 5])
    data = load(save(tmp_path, x=x), standardise=True)
    train, test = data.train.inputs(torch.arange(120)), data.test.inputs(torch.arange(40))
    torch.testing.assert_close(train.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(train[:, [0, 2, 3]].std(0, correction=0), torch.ones(3))
    assert (train[:, 4] == 0).all()
    rows = x[data.train.index]
    expected = (x[data.test.index] - rows.mean(0))[:, [0, 2, 3]] / rows.std(0)[[0, 2, 3]]
    np.testing.assert_allclose(test[:, [0, 2, 3]], expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"holds 1e\+200"):
        load(save(tmp_path, x=np.where(x == x.max(), 1e200, x)), standardise=True)


def test_attribute_columns_are_checked_and_passed_on(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert load(path).attribute_columns is None
    assert load(path, attribute_columns=[1, 4]).attribute_columns == (1, 4)
    with pytest.raises(ValueError, match=r"attribute_columns is \[5\], but must name columns of x"):
        load(path, attribute_columns=[5])
    with pytest.raises(ValueError, match=r"attribute_columns is \[\], but must be a list of .* with one entry or more"):
        load(path, attribute_columns=[])


def test_per_sample_inputs_are_declared_and_never_inferred(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert load(path, standardise=False).per_sample_inputs is None
    assert load(path, standardise=False, per_sample_inputs=True).per_sample_inputs is True
    assert load(path, standardise=True).per_sample_inputs is False
    with pytest.raises(ValueError, match="per_sample_inputs is true, but standardise=true makes"):
        load(path, standardise=True, per_sample_inputs=True)


def test_large_integers_are_standardised_before_they_are_rounded(tmp_path: Path) -> None:
    """Milliseconds of one hour: float32 holds no single one of them."""
    x = np.random.default_rng(0).integers(0, 3_600_000, (200, 2)) + 1_700_000_000_000
    data = load(save(tmp_path, x=x), standardise=True)
    rows = x[data.train.index]
    expected = (rows - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(data.train.inputs(torch.arange(120)), expected, atol=1e-5)


def test_column_that_is_constant_in_train_is_not_blown_up(tmp_path: Path) -> None:
    x, names = arrays()["x"], np.array(["train", "val", "pairs", "test"])[np.arange(200) % 4]
    x[:, 0] = np.where(names == "train", 0.1, 0.2)
    data = load(save(tmp_path, x=x, split=names), standardise=True)
    torch.testing.assert_close(data.test.inputs(torch.arange(50))[:, 0], torch.full((50,), 0.1))


def test_arrays_that_are_not_used_are_named(tmp_path: Path) -> None:
    """Such as a misspelt split."""
    with pytest.warns(UserWarning, match="has arrays that are not used: splits"):
        load(save(tmp_path, splits=np.full(200, "train")))


def test_bytes_are_labels(tmp_path: Path) -> None:
    source = arrays()
    data = load(save(tmp_path, y=source["y"].astype(bytes)))
    assert data.classes == ("cat", "dog")
    assert torch.equal(data.train.y, load(save(tmp_path)).train.y)


def test_labels_that_differ_in_capitals_are_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a holds 'F', 'f', 'm', of which some differ in capitals only"):
        load(save(tmp_path, a=np.array(["F", "f", "m"])[np.arange(200) % 3]))


def test_home_is_expanded_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path)
    assert len(load("~/my.npz").train) == 120


def test_columns_of_different_scales_are_warned_of_unless_they_are_standardised(tmp_path: Path) -> None:
    x = arrays()["x"] * np.array([1e4, 1, 5, 1, 0])
    path = save(tmp_path, x=x)
    with pytest.warns(UserWarning, match=r"column 0 has .* of 1.1.*e\+04, column \d one of .*standardise=true"):
        data = load(path, standardise=False)
    np.testing.assert_allclose(data.train.inputs(torch.arange(3)), x[data.train.index[:3]], rtol=1e-6)
    assert float(load(path).train.inputs(torch.arange(120)).std(0).max()) == pytest.approx(1, abs=0.01)  # no warning
    load(save(tmp_path, x=x / np.array([1e2, 1, 1, 1, 1])), standardise=False)  # nor of these
