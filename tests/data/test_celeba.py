import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.data import celeba_files
from torchvision import transforms

from efface.data.base import Dataset
from efface.data.celeba import CelebA
from efface.runs import base
from efface.runs.grid import GridRun

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def load(data_dir: Path, *, cache: Path | None = None, **options: object) -> Dataset:
    options = {"resolution": 16, **options}
    return CelebA(**options).load(data_dir=data_dir, cache_dir=cache or data_dir / "cache", seed=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    celeba_files.write(folder)
    return folder


@pytest.fixture
def copy(official: Path, tmp_path: Path) -> Path:
    """A copy of the official layout, to be damaged."""
    shutil.copytree(official / "celeba", tmp_path / "celeba")
    return tmp_path


def splits(data: Dataset) -> dict:
    return {"train": data.train, "val": data.val, "pairs": data.pairs.split, "test": data.test}


def test_splits_are_official_and_people_stay_together(official: Path) -> None:
    data, table = load(official), celeba_files.people()
    assert (data.classes, data.attributes) == (("not Blond_Hair", "Blond_Hair"), ("not Male", "Male"))
    assert [len(split) for split in splits(data).values()] == [32, 8, 8, 16]
    seen: set[int] = set()
    for name, split in splits(data).items():
        row = split.index.numpy() - 1
        assert set(table["part"][row]) == {{"train": 0, "val": 1, "pairs": 1, "test": 2}[name]}
        np.testing.assert_array_equal(split.y, table["values"][row, 1] == 1)
        np.testing.assert_array_equal(split.a, table["values"][row, 2] == 1)
        np.testing.assert_array_equal(split.cluster, table["identity"][row])
        assert not seen & set(split.cluster.tolist())
        seen |= set(split.cluster.tolist())
    assert sum(len(split) for split in splits(data).values()) == len(table["part"])


def test_pairs_are_two_people_of_one_label(official: Path) -> None:
    data = load(official)
    pairs = data.pairs
    assert len(pairs) == len(pairs.split)
    assert torch.equal(pairs.split.y[pairs.rows], pairs.split.y[pairs.rows_cf])
    assert (pairs.a != pairs.a_cf).all()
    assert not data.flippable
    assert data.per_sample_inputs is True
    with pytest.raises(ValueError, match="no counterfactuals"):
        data.train.inputs(torch.tensor([0]), a=torch.tensor([1]))


@pytest.mark.parametrize("resolution", [16, 64, 224])
def test_preprocessing_is_that_of_group_dro(official: Path, resolution: int) -> None:
    data = load(official, resolution=resolution)
    steps = [transforms.CenterCrop(178), transforms.Resize((resolution, resolution)), transforms.ToTensor()]
    reference = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
    rows = torch.tensor([7, 0, 3])
    x = data.test.inputs(rows)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert data.input_shape == (3, resolution, resolution)
    for i, row in enumerate(rows):
        file = official / "celeba" / "img_align_celeba" / f"{int(data.test.index[row]):06d}.jpg"
        torch.testing.assert_close(x[i], reference(Image.open(file)))


def test_grey_images_have_one_channel(official: Path) -> None:
    data = load(official, grayscale=True, resolution=50)
    assert data.input_shape == (1, 50, 50)
    file = official / "celeba" / "img_align_celeba" / f"{int(data.train.index[2]):06d}.jpg"
    grey = Image.open(file).convert("L").crop((0, 20, 178, 198)).resize((50, 50), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(grey)) / 255
    torch.testing.assert_close(data.train.inputs(torch.tensor([2]))[0, 0], (x - 0.449) / 0.226)


def test_several_attributes_give_all_combinations(official: Path) -> None:
    data = load(official, attributes=["Male", "Smiling"])
    values = celeba_files.people()["values"][data.train.index.numpy() - 1]
    np.testing.assert_array_equal(data.train.a, (values[:, 2] == 1) + 2 * (values[:, 3] == 1))
    assert data.attributes == (*("not Male, not Smiling", "Male, not Smiling"), *("not Male, Smiling", "Male, Smiling"))


def test_folds_of_people_test_every_photograph_once_whatever_the_target(official: Path) -> None:
    table = celeba_files.people()
    tested: list[int] = []
    for fold in range(5):
        data = load(official, split="people", fold=fold)
        assert (len(data.train), len(data.test)) == pytest.approx((38, 13), abs=3)
        seen: set[int] = set()
        for split in splits(data).values():
            np.testing.assert_array_equal(split.cluster, table["identity"][split.index.numpy() - 1])
            assert not seen & set(split.cluster.tolist())
            seen |= set(split.cluster.tolist())
        assert seen == set(table["identity"])
        assert torch.equal(data.test.index, load(official, split="people", fold=fold, target="Young").test.index)
        tested += data.test.index.tolist()
    assert sorted(tested) == list(range(1, 65))


def test_folds_do_not_depend_on_the_official_partition(official: Path, tmp_path: Path) -> None:
    celeba_files.write(tmp_path, part=np.roll(celeba_files.people()["part"], 20))
    one, other = (load(folder, split="people", fold=2) for folder in (official, tmp_path))
    for name, split in splits(one).items():
        assert torch.equal(split.index, splits(other)[name].index)


def test_folds_need_identities(tmp_path: Path) -> None:
    celeba_files.write(tmp_path, identities=False)
    with pytest.raises(FileNotFoundError, match=r"celeba has no identity_CelebA.txt .*, or take split=official"):
        load(tmp_path, split="people", fold=0)


def test_folds_need_five_people(tmp_path: Path) -> None:
    celeba_files.write(tmp_path, identity=np.arange(64) % 4)
    with pytest.raises(ValueError, match="show 4 people, who make no 5 folds: take more photographs, or split=officia"):
        load(tmp_path, split="people", fold=0)


def test_txt_and_csv_layouts_give_the_same_data(official: Path, tmp_path: Path) -> None:
    celeba_files.write(tmp_path, csv=True)
    one, other = load(official), load(tmp_path)
    for name, split in splits(one).items():
        twin = splits(other)[name]
        for part in ("index", "y", "a", "cluster"):
            assert torch.equal(getattr(split, part), getattr(twin, part))
        rows = torch.arange(len(split))
        assert torch.equal(split.inputs(rows), twin.inputs(rows))


def test_folders_of_the_official_archive_are_read(official: Path, copy: Path) -> None:
    folder = copy / "celeba"
    for within, name in (
        ("Anno", "list_attr_celeba.txt"),
        ("Anno", "identity_CelebA.txt"),
        ("Img", "img_align_celeba"),
    ):
        (folder / within).mkdir(exist_ok=True)
        (folder / name).rename(folder / within / name)
    assert torch.equal(load(copy).train.index, load(official).train.index)
    assert CelebA().fingerprint(copy) == CelebA().fingerprint(official)


def test_missing_identities_give_no_clusters_and_a_warning(tmp_path: Path) -> None:
    celeba_files.write(tmp_path, identities=False)
    with pytest.warns(UserWarning, match=r"no identity_CelebA.txt, so that a person may be in both val and pairs"):
        data = load(tmp_path)
    assert data.val.cluster is None  # type: ignore[attr-defined]
    assert len(data.val) == len(data.pairs.split) == 8


def test_images_are_decoded_once(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(official, cache=tmp_path).train.inputs(torch.arange(1))
    monkeypatch.setattr("efface.data.images.decode", None)
    data = load(official, cache=tmp_path, target="Smiling")  # another target, the same images
    assert data.train.inputs(torch.arange(2)).shape == (2, 3, 16, 16)
    (file,) = tmp_path.glob("images/*.npy")
    assert np.load(file, mmap_mode="r").shape == (64, 16, 16, 3)


def test_damaged_cache_is_noticed(official: Path, tmp_path: Path) -> None:
    before = load(official, cache=tmp_path).train.inputs(torch.arange(32))
    (file,) = tmp_path.glob("images/*.npy")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        after = load(official, cache=tmp_path).train.inputs(torch.arange(32))
    assert torch.equal(before, after)


def test_fingerprint_changes_with_lists_and_images(copy: Path) -> None:
    source = CelebA(resolution=16)
    before = source.fingerprint(copy)
    with (copy / "celeba" / "img_align_celeba" / "000003.jpg").open("ab") as file:
        file.write(b"more")
    images = source.fingerprint(copy)
    edit(copy, "list_eval_partition.txt", "000003.jpg 0", "000003.jpg 2")
    assert len({before, images, source.fingerprint(copy)}) == 3


def edit(data_dir: Path, name: str, old: str, new: str) -> None:
    file = data_dir / "celeba" / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_eval_partition.txt", "000005.jpg 0", "000005.jpg 3", r"partition.txt, line 5: the part is 3"),
        ("list_eval_partition.txt", "000005.jpg 0", "000005.jpg", r"partition.txt, line 5: '000005.jpg', but must be"),
        ("list_eval_partition.txt", "000005.jpg 0\n", "", r"1 images of .*attr.* are not in .*partition.*: 000005"),
        ("identity_CelebA.txt", "000005.jpg 101", "000099.jpg 101", r"1 images of .*attr_celeba.* .*identity.*000005"),
        ("identity_CelebA.txt", "000001.jpg", "000099.jpg 9\n000001.jpg", r"images of .*identity.*attr.*: 000099.jpg"),
        ("list_attr_celeba.txt", "000002.jpg  -1  1", "000002.jpg  -1  2", r"celeba.txt, line 4: .*'2', but must"),
        ("list_attr_celeba.txt", "000002.jpg  -1", "000002.jpg", r"line 4: 5 fields, but there must be 6"),
        ("list_attr_celeba.txt", "000002.jpg", "two.jpg", r"line 4: 'two.jpg' does not name an image"),
        ("list_attr_celeba.txt", "64\n", "202599\n", r"names 64 images, but its first line says 202599"),
        ("list_attr_celeba.txt", "000005.jpg", "000003.jpg", r"line 7: 000003\.jpg is in line 5 already"),
        ("list_eval_partition.txt", "000005.jpg", "000003.jpg", r"line 5: 000003\.jpg has a number already, 0"),
        ("identity_CelebA.txt", "000005.jpg", "000003.jpg", r"line 5: 000003\.jpg has a number already, 100"),
        ("list_eval_partition.txt", "000005.jpg 0", "000005.jpg ²", "line 5: '000005.jpg ²', but must be a name and"),
        ("list_attr_celeba.txt", "000002.jpg", "².jpg", r"line 4: '².jpg' does not name an image"),
    ],
)
def test_wrong_lists_are_named(copy: Path, name: str, old: str, new: str, message: str) -> None:
    """Covers faults B15, CelebA."""
    edit(copy, name, old, new)
    with pytest.raises(ValueError, match=message):
        load(copy)


def test_list_in_another_encoding_is_named(copy: Path) -> None:
    """Covers faults B15, CelebA."""
    with (copy / "celeba" / "identity_CelebA.txt").open("ab") as file:
        file.write(b"\xe9 1\n")
    with pytest.raises(ValueError, match=r"identity_CelebA.txt, line 65 is not in UTF-8"):
        load(copy)


def test_missing_images_are_counted_and_named(copy: Path) -> None:
    for i in range(1, 41):
        (copy / "celeba" / "img_align_celeba" / f"{i:06d}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 40 of the 64 images .*: 000001.jpg, .* and 35 more"):
        load(copy)


def test_unlisted_images_are_counted_and_named(copy: Path) -> None:
    images = copy / "celeba" / "img_align_celeba"
    shutil.copy(images / "000001.jpg", images / "000999.jpg")
    with pytest.warns(UserWarning, match=r"has 1 images that .* does not name, and that are not used: 000999.jpg"):
        load(copy)


def test_damaged_images_are_all_named(copy: Path) -> None:
    images = copy / "celeba" / "img_align_celeba"
    whole = (images / "000007.jpg").read_bytes()
    (images / "000007.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "000031.jpg").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(images / "000032.jpg")
    data = load(copy)  # reads none of them
    with pytest.raises(ValueError, match=r"3 of 64 images cannot be used") as error:
        data.test.inputs(torch.arange(1))
    for part in ("000007.jpg (image file is truncated", "000031.jpg (", "000032.jpg (it is 64 × 64, but must be 178"):
        assert part in str(error.value)
    assert not list(copy.glob("cache/images/*.npy"))
    assert not list(copy.glob("cache/images/.*.tmp"))


def test_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path)
    for part in (str(tmp_path / "celeba"), "no list_attr_celeba.txt or .csv", "no folder img_align_celeba"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "Blonde_Hair"}, r"'Blonde_Hair' is not among the 5 names of .*line 2: did you mean Blond_Hair"),
        ({"attributes": ["male"]}, r"'male' is not among .* did you mean Male"),
        ({"target": "Male"}, "target is 'Male', which is protected"),
        ({"attributes": []}, "attributes is"),
        ({"attributes": "Male"}, r"attributes is 'Male', but must be a list"),
        ({"attributes": ["Young", "Young"]}, "one is named twice"),
        ({"resolution": 0}, "resolution is 0"),
        ({"split": "person"}, r"split is 'person', but must be official \| people"),
        ({"fold": 1}, "fold is 1, but split=official has no folds: split=people has"),
        ({"split": "people"}, "split is 'people', but no fold is named: fold=0 to fold=4"),
        ({"split": "people", "fold": 5}, "fold is 5, but must be an integer >= 0 and <= 4 or null"),
        ({"split": "people", "fold": -1}, "fold is -1, but must be"),
        ({"target": "Bald"}, "split 'train' has no sample of class Bald"),
        ({"attributes": ["Bald"]}, "every sample of train in .* has the attribute 'not Bald'"),
    ],
)
def test_bad_options(official: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(official, **options)


def test_empty_groups_and_labels_without_pairs_are_named(tmp_path: Path) -> None:
    values = celeba_files.people()["values"]
    val = celeba_files.people()["part"] == 1
    values[val & (values[:, 1] == 1), 2] = -1
    celeba_files.write(tmp_path, values=values)
    with pytest.warns(UserWarning, match="val has no image of Blond_Hair & Male") as caught:
        data = load(tmp_path)
    assert "Blond_Hair has no pairs" in str(caught[0].message)
    assert set(data.pairs.split.y[data.pairs.rows].tolist()) == {0}


def test_grid_runs_from_photographs_to_a_record(official: Path, parts_of: Callable[..., GridRun]) -> None:
    parts = parts_of(
        *("dataset=celeba", "dataset.resolution=16", "model=convnet", "model.channels=[8,8]", "method=leace"),
        *("training=erm", "training.epochs=1", f"data_dir={official}", "dataset.target=Smiling"),
    )
    record = base.execute(parts, say=lambda message: None)
    assert record.status == "done"
    assert record.metrics["counterfactual_bias"] is None
    assert record.fingerprint == parts.dataset.fingerprint(official)
    predictions = pd.read_parquet(parts.directory / "predictions.parquet")
    people = celeba_files.people()["identity"][predictions["index"] - 1]
    np.testing.assert_array_equal(predictions["cluster"], people)


def test_frozen_network_reads_photographs_once_for_all_tasks_and_folds(
    official: Path, parts_of: Callable[..., GridRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = (f"data_dir={official}", "dataset.resolution=32", "evaluation.mlp_probe=false", "training.epochs=2")
    first = parts_of("dataset=celeba", "dataset.target=Smiling", *quick)
    record = base.execute(first, say=lambda message: None)
    assert record.run["cache_hit"] == {"features": False, "model": False}
    assert record.fingerprint != first.dataset.fingerprint(official)  # it is of the weights too
    assert len(record.info["training"]["history"]) == 2
    model = max((first.cache_dir / "model").glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    assert model.stat().st_size < 50_000  # the head alone
    monkeypatch.setattr("efface.models.efficientnet_lite0._Network.forward", None)  # nothing is computed again
    monkeypatch.setattr("efface.data.images.cached_array", None)  # nor is a photograph looked at
    fold = ("dataset.split=people", "dataset.fold=3", "training=head_group_dro")
    for options in (("dataset.target=Young", "seed=1"), ("dataset.target=Smiling", *fold)):
        other = base.execute(parts_of("dataset=celeba", "method=leace", *options, *quick), say=lambda message: None)
        assert other.run["cache_hit"] == {"features": True, "model": False}


def test_head_of_a_random_backbone_is_refused(official: Path, parts_of: Callable[..., GridRun]) -> None:
    run = parts_of("dataset=celeba", "dataset.resolution=16", "model=convnet", f"data_dir={official}")
    with pytest.raises(ValueError, match=r"that of model=convnet has random weights: take model=efficientnet_lite0"):
        base.execute(run, say=lambda message: None)


def test_reading_releases_memory(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efface.data.images._RESIDENT", 1000)
    data = load(official, cache=tmp_path)
    rows = torch.arange(32)
    with warnings.catch_warnings():
        assert torch.equal(data.train.inputs(rows), data.train.inputs(rows))
