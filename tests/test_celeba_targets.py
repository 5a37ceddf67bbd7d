"""What erasure reaches on CelebA: slow, and most of it only where the photographs are."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.conftest import CONF
from torchvision import transforms

from efface.data.celeba import CelebA
from efface.data.groups import group_counts
from efface.record import Record
from efface.runs.grid import GridRun

pytestmark = pytest.mark.slow
needs_data = pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with celeba")
GAPS = pytest.mark.filterwarnings("ignore:.*has no image of:UserWarning")


@GAPS
@needs_data
def test_splits_of_the_photographs_at_hand(tmp_path: Path) -> None:
    folder = Path(os.environ["DATA_DIR"])
    for target in ("Blond_Hair", "Attractive"):
        data = CelebA(target=target, resolution=64).load(data_dir=folder, cache_dir=tmp_path, seed=0)
        splits = (data.train, data.val, data.pairs.split, data.test)
        lines = (folder / "celeba" / "list_attr_celeba.txt").read_text().splitlines()
        assert sum(len(split) for split in splits) == int(lines[0])
        people = [set(split.cluster.tolist()) for split in splits if split.cluster is not None]
        assert len(people) == 4
        assert sum(map(len, people)) == len(set.union(*people))
        val, pairs = (group_counts(split.y, split.a, 2, 2) for split in splits[1:3])
        assert float((val - pairs).abs().sum() / (val + pairs).sum()) < 0.15
    steps = [transforms.CenterCrop(178), transforms.Resize((64, 64)), transforms.ToTensor()]
    reference = transforms.Compose([*steps, transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    rows = torch.arange(0, len(data.test), 50)
    for i, x in zip(data.test.index[rows].tolist(), data.test.inputs(rows), strict=True):
        file = folder / "celeba" / "img_align_celeba" / f"{i:06d}.jpg"
        torch.testing.assert_close(x, reference(Image.open(file)))


@GAPS
@needs_data
def test_folds_of_the_photographs_at_hand(tmp_path: Path) -> None:
    folder = Path(os.environ["DATA_DIR"])
    tested: list[int] = []
    for fold in range(5):
        source = CelebA(target="Attractive", resolution=64, split="people", fold=fold)
        data = source.load(data_dir=folder, cache_dir=tmp_path, seed=0)
        splits = (data.train, data.val, data.pairs.split, data.test)
        n = sum(len(split) for split in splits)
        for split, share in zip(splits, (0.6, 0.1, 0.1, 0.2), strict=True):
            assert len(split) / n == pytest.approx(share, abs=0.01)
        train, val, pairs = (group_counts(split.y, split.a, 2, 2) / len(split) for split in splits[:3])
        assert float((val - train).abs().max()) < 0.05
        assert float((pairs - train).abs().max()) < 0.05
        assert float(data.test.a.double().mean()) == pytest.approx(float(data.train.a.double().mean()), abs=0.02)
        tested += data.test.index.tolist()
    assert len(tested) == len(set(tested)) == n


@GAPS
@needs_data
@pytest.mark.timeout(1200)
def test_network_is_trained_once_and_erasure_helps(tmp_path: Path) -> None:
    records = {}
    network = ["model=resnet18", "training=erm", "training.epochs=5", "training.batch_size=128"]
    data = ["dataset=celeba", "dataset.target=Attractive", "dataset.resolution=64"]
    for method in ("leace", "none"):
        places = [f"results_dir={tmp_path / 'results'}", f"cache_dir={tmp_path / 'cache'}", "logger=none"]
        command = [sys.executable, "run.py", f"method={method}", *data, *network, *places]
        subprocess.run(command, cwd=CONF.parent, check=True)
        (path,) = tmp_path.glob(f"results/celeba/resnet18/erm/{method}/*/seed=0/record.json")
        records[method] = Record.read(path)
    erased, before = records["leace"], records["none"]
    assert before.run["cache_hit"] == {"model": True, "features": True}
    assert erased.run["peak_memory_bytes"] < 2.5e9
    assert before.metrics["accuracy"] > 0.65
    assert before.metrics["counterfactual_bias"] is None  # pairs are two people
    # Guarded where it was fitted, and felt where it was not.
    assert erased.metrics["max_abs_cov"] < 1e-4
    parity, parity_before = (abs(r.metrics["statistical_parity_difference"]) for r in (erased, before))
    assert parity < parity_before / 2
    assert erased.metrics["bias_conflicting_accuracy"] > before.metrics["bias_conflicting_accuracy"]
    people = (
        CelebA(resolution=64)
        .load(data_dir=Path(os.environ["DATA_DIR"]), cache_dir=tmp_path / "cache", seed=0)
        .test.cluster
    )
    if people is not None and len(people.unique()) < 100:  # so few tell a probe nothing, and the record says so
        assert before.metrics["probe_information"] is None
        assert before.info["reasons"]["probe_information"].startswith("underpowered")


@GAPS
@needs_data
@pytest.mark.timeout(900)
def test_head_on_pretrained_features_reads_more_than_a_network_from_scratch(tmp_path: Path) -> None:
    """Without options, as in the first command that a person tries; the second run computes no features again."""
    for method, hit in (("none", False), ("fmd", True)):
        places = [f"results_dir={tmp_path / 'results'}", f"cache_dir={tmp_path / 'cache'}", "logger=none"]
        command = [sys.executable, "run.py", f"method={method}", "dataset=celeba", "dataset.target=Attractive", *places]
        subprocess.run(command, cwd=CONF.parent, check=True)
        (path,) = tmp_path.glob(f"results/celeba/efficientnet_lite0/head/{method}/*/seed=0/record.json")
        record = Record.read(path)
        assert record.run["cache_hit"] == {"features": hit, "model": hit}
        assert record.val_metrics["accuracy"] > 0.66


@GAPS
@needs_data
@pytest.mark.timeout(900)
def test_training_that_knows_the_groups_runs(parts_of: Callable[..., GridRun]) -> None:
    from efface.runs import base

    for training in ("reweighted", "resampled", "group_dro"):
        record = base.execute(
            parts_of(
                *("dataset=celeba", f"training={training}", "training.epochs=1", "model=convnet"),
                *("dataset.resolution=64", "dataset.target=Attractive", "evaluation.mlp_probe=false"),
            ),
            say=lambda message: None,
        )
        assert record.status == "done"
        assert 0.5 < record.metrics["unbiased_accuracy"] < 1


def test_all_photographs_of_celeba_are_read_in_little_memory(tmp_path: Path) -> None:
    """An array as large as all of CelebA at 64 px, 2.5 GB, every row of it, in a process of its own."""
    script = f"""
import numpy as np, torch
from efface.data.images import Images
from efface.runs.provenance import PeakMemory
file = r"{tmp_path / "images.npy"}"
np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(202_599, 64, 64, 3)).flush()
images = Images((202_599, 64, 64, 3), lambda: np.load(file, mmap_mode="r"))
peak = PeakMemory("cpu")
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
for rows in order.split(256):
    images.normalised(rows)
print(peak.bytes())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CONF.parent)
    assert int(done.stdout) < 1.5e9
