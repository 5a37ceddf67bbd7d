import hashlib
import os
from pathlib import Path

import pytest
import torch

from efface.data import colored_mnist
from efface.data.base import Dataset
from efface.data.colored_mnist import ColoredMnist


def load(seed: int = 0, **options: object) -> Dataset:
    source = ColoredMnist(size="mini", **options)  # type: ignore[arg-type]
    return source.load(data_dir=Path(), cache_dir=Path(), seed=seed)


def test_splits_are_disjoint_stratified_and_fixed(mini: Dataset) -> None:
    splits = (mini.train, mini.val, mini.pairs.split, mini.test)
    assert [len(split) for split in splits] == [3000, 500, 500, 1000]
    assert len(torch.cat([split.index for split in splits]).unique()) == 5000
    for split in splits:
        assert (torch.bincount(split.y) == len(split) // 10).all()
    other = load(seed=1, bias_ratio=0.5)
    assert torch.equal(other.train.index, mini.train.index)
    assert not torch.equal(other.train.a, mini.train.a)


def test_colours_follow_the_recipe(mini: Dataset) -> None:
    for split in (mini.train, mini.val, mini.pairs.split):
        for label in range(10):
            counts = torch.bincount(split.a[split.y == label], minlength=10)
            assert counts[label] == round(0.95 * int(counts.sum()))
            others = torch.cat([counts[:label], counts[label + 1 :]])
            assert others.max() - others.min() <= 1
    for label in range(10):
        assert (torch.bincount(mini.test.a[mini.test.y == label]) == 10).all()


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.995])
def test_bias_ratio_is_met(ratio: float) -> None:
    train = load(bias_ratio=ratio).train
    assert float((train.y == train.a).double().mean()) == pytest.approx(ratio, abs=2e-3)


def test_lff_colours_the_digit(mini: Dataset) -> None:
    rows = torch.tensor([5, 17, 2999])
    x = mini.train.inputs(rows)
    grey = mini.train.digits[rows] / 255  # type: ignore[attr-defined]
    assert x.shape == (3, 3, 28, 28)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, grey[:, None] * mini.train.palette[mini.train.a[rows]][:, :, None, None])  # type: ignore[attr-defined]


def test_rebias_colours_the_background() -> None:
    split = load(variant="rebias").train
    x = split.inputs(torch.arange(4))
    digit = split.digits[:4] > 127  # type: ignore[attr-defined]
    for i in range(4):
        assert (x[i][:, digit[i]] == 1).all()
        background = x[i][:, ~digit[i]]
        assert (background == split.palette[split.a[i]][:, None]).all()  # type: ignore[attr-defined]


def test_counterfactual_changes_only_the_colour(mini: Dataset) -> None:
    rows = torch.arange(20)
    changed = mini.train.inputs(rows, a=(mini.train.a[rows] + 1) % 10)
    x = mini.train.inputs(rows)
    assert torch.equal(changed.sum(1) > 0, x.sum(1) > 0)
    assert not torch.equal(changed, x)
    torch.testing.assert_close(mini.train.inputs(rows, a=mini.train.a[rows]), x)


def test_jitter_belongs_to_the_digit() -> None:
    split = load(severity=1).train
    plain = load().train
    rows = torch.arange(50)
    difference = (split.inputs(rows) - plain.inputs(rows)).abs().amax((1, 2, 3))
    assert (difference > 0).float().mean() > 0.9
    assert torch.equal(split.inputs(rows), split.inputs(rows))
    spread = [float(load(severity=severity).train.jitter.std()) for severity in range(6)]  # type: ignore[attr-defined]
    assert spread == pytest.approx([0.0, 0.05, 0.02, 0.01, 0.005, 0.002], rel=0.05)


def test_pairs_are_the_same_digit_in_another_colour_evenly(mini: Dataset) -> None:
    for pairs in (mini.pairs, mini.val_pairs, mini.test_pairs):
        assert torch.equal(pairs.rows, pairs.rows_cf)
        assert (pairs.a != pairs.a_cf).all()
        assert torch.equal(pairs.a, pairs.split.a)
    cells = torch.bincount(mini.pairs.split.y * 10 + mini.pairs.a_cf, minlength=100).view(10, 10)
    off_diagonal = cells[~torch.eye(10, dtype=torch.bool)]
    assert off_diagonal.min() >= 3  # 47 or 48 dealt over 9 colours, and a few the other way
    assert off_diagonal.max() <= 7


def test_two_classes_are_relabelled_and_keep_their_colours() -> None:
    two = load(classes=[3, 8])
    ten = load()
    assert two.classes == ("3", "8")
    assert len(two.attributes) == 2
    assert set(two.train.y.tolist()) == {0, 1}
    torch.testing.assert_close(two.train.palette, ten.train.palette[[3, 8]])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias_ratio": 1.1}, r"bias_ratio is 1.1, but must be a number >= 0"),
        ({"bias_ratio": -0.1}, "bias_ratio is -0.1"),
        ({"variant": "rebais"}, "variant is 'rebais'"),
        ({"severity": 6}, "severity is 6"),
        ({"size": "tiny"}, "size is 'tiny'"),
        ({"classes": [3]}, "classes is"),
        ({"classes": [3, 3]}, "classes is"),
        ({"classes": [3, 11]}, "classes is"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColoredMnist(**options)


def test_missing_mnist_names_the_folder_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(FileNotFoundError) as error:
        ColoredMnist().load(data_dir=tmp_path / "wrong", cache_dir=tmp_path, seed=0)
    assert not list(tmp_path.iterdir())
    for part in (
        str(tmp_path / "wrong" / "MNIST" / "raw"),
        "train-images-idx3-ubyte",
        "colored_mnist_mini needs no download",
    ):
        assert part in str(error.value)


def test_archives_that_are_there_are_unpacked_beside_them_as_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in colored_mnist._SHA256:
        (raw / f"{name}.gz").write_text(name)

    def unpack(*, root: Path, download: bool) -> None:
        assert download
        assert sorted(path.suffix for path in raw.iterdir()) == [".gz"] * 4
        for archive in list((root / "MNIST" / "raw").iterdir()):
            archive.with_suffix("").write_text(archive.read_text())
        assert sorted(path.suffix for path in raw.iterdir()) == [".gz"] * 4

    monkeypatch.setattr("torchvision.datasets.MNIST", unpack)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in colored_mnist._SHA256}
    monkeypatch.setattr(colored_mnist, "_SHA256", digests)
    ColoredMnist().fingerprint(tmp_path)
    assert len(list(raw.iterdir())) == 8
    assert list(tmp_path.iterdir()) == [tmp_path / "MNIST"]


def test_files_that_are_not_mnist_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers faults B15: whatever is damaged, flipped labels too, is seen by the checksum."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digests = {}
    for name in colored_mnist._SHA256:
        (raw / name).write_bytes(name.encode() * 10)
        digests[name] = hashlib.sha256(name.encode() * 10).hexdigest()
    monkeypatch.setattr(colored_mnist, "_SHA256", digests)
    source = ColoredMnist()
    before = source.fingerprint(tmp_path)
    labels = raw / "train-labels-idx1-ubyte"
    content = labels.read_bytes()
    for damaged in (content[:-1], content[:50] + bytes([content[50] ^ 1]) + content[51:], b""):
        labels.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{labels} is damaged or not MNIST's: it has {len(damaged)} bytes"):
            source.fingerprint(tmp_path)
    labels.write_bytes(content)
    assert source.fingerprint(tmp_path) == before


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with MNIST")
def test_full_mnist_loads() -> None:
    data = ColoredMnist(bias_ratio=0.99).load(data_dir=Path(os.environ["DATA_DIR"]), cache_dir=Path(), seed=0)
    splits = (data.train, data.val, data.pairs.split, data.test)
    assert [len(split) for split in splits] == [50_000, 5_000, 5_000, 10_000]
    assert len(torch.cat([split.index for split in splits]).unique()) == 70_000
    assert torch.equal(data.test.index, torch.arange(60_000, 70_000))
    assert float((data.train.y == data.train.a).double().mean()) == pytest.approx(0.99, abs=1e-4)
    per_cell = torch.bincount(data.test.y * 10 + data.test.a, minlength=100).view(10, 10)
    assert (per_cell.max(1).values - per_cell.min(1).values <= 1).all()
