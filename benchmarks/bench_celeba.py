"""CelebA: photographs to features beside a loader of PIL images, and bfloat16 channels-last beside float32."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from benchmarks.timing import Row
from efface.data.base import Dataset, TensorSplit
from efface.data.celeba import CelebA
from efface.data.images import ImageSplit
from efface.models.base import Model
from efface.models.resnet import resnet
from efface.training import Erm, read_out

RESOLUTION, IMAGES, STEPS = 64, 2048, 1024
"""Side in pixels, images that are decoded and read, images that are trained on."""
WORKERS = 2


class Photographs(TorchDataset[torch.Tensor]):
    """The images of a split the usual way, as from torchvision's `ImageFolder`: opened and transformed one by one."""

    def __init__(self, folder: Path, split: ImageSplit) -> None:
        self.files = [folder / f"{i:06d}.jpg" for i in split.index.tolist()]
        steps = [transforms.CenterCrop(178), transforms.Resize((RESOLUTION, RESOLUTION)), transforms.ToTensor()]
        self.transform = transforms.Compose(
            [*steps, transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        image: torch.Tensor = self.transform(Image.open(self.files[i]).convert("RGB"))
        return image


def subset(data_dir: Path, folder: Path) -> str:
    """Make `folder/celeba`, of links to photographs in `data_dir` where it has them, else of generated ones."""
    images = folder / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    source = data_dir / "celeba" / "img_align_celeba"
    names = sorted(path.name for path in source.glob("*.jpg"))[:IMAGES] if source.is_dir() else []
    what = f"{len(names):,} photographs of CelebA"
    for name in names:
        (images / name).symlink_to((source / name).resolve())
    if not names:
        names, what = [f"{i + 1:06d}.jpg" for i in range(IMAGES)], f"{IMAGES:,} generated photographs"
        rng = np.random.default_rng(0)
        for name in names:
            small = Image.fromarray(rng.integers(0, 256, (27, 22, 3), dtype=np.uint8))
            small.resize((178, 218), Image.Resampling.BICUBIC).save(images / name, quality=90)
    # Labels do not matter here; nearly all images are train.
    rows = [(name, 2 * (i % 2) - 1, 2 * (i // 2 % 2) - 1) for i, name in enumerate(names)]
    listed = "".join(f"{name} {y} {a}\n" for name, y, a in rows)
    (folder / "celeba" / "list_attr_celeba.txt").write_text(f"{len(rows)}\nBlond_Hair Male\n{listed}")
    parts = "".join(f"{name} {1 if i < 16 else 2 if i < 24 else 0}\n" for i, name in enumerate(names))
    (folder / "celeba" / "list_eval_partition.txt").write_text(parts)
    (folder / "celeba" / "identity_CelebA.txt").write_text("".join(f"{n} {i // 8}\n" for i, n in enumerate(names)))
    return what


@torch.no_grad()
def loader_features(folder: Path, split: ImageSplit, model: Model) -> torch.Tensor:
    """Compute the same features over a `DataLoader`, in float32."""
    loader = DataLoader(Photographs(folder, split), batch_size=128, num_workers=WORKERS)
    return torch.cat([model.backbone(x) for x in loader])


def network(layout: torch.memory_format) -> Model:
    """Build the same random ResNet-18 in each layout."""
    torch.manual_seed(0)
    return resnet(input_shape=(3, RESOLUTION, RESOLUTION), n_classes=2).to(memory_format=layout)


def reading_rows(folder: Path, what: str, source: CelebA) -> Iterator[Row]:
    """Time decoding and features, the first time and again."""
    model = network(torch.channels_last).eval()
    plain = network(torch.contiguous_format).eval()
    images = folder / "celeba" / "img_align_celeba"
    read_out(model.backbone, source.load(data_dir=folder, cache_dir=folder / "warm", seed=0).val, device="cpu")

    def ours() -> tuple[float, torch.Tensor, ImageSplit]:
        start = time.perf_counter()
        split = source.load(data_dir=folder, cache_dir=folder / "cache", seed=0).train
        features = read_out(model.backbone, split, device="cpu", precision="auto")
        assert isinstance(split, ImageSplit)
        return time.perf_counter() - start, features, split

    first, _, split = ours()
    start = time.perf_counter()
    reference = loader_features(images, split, plain)
    theirs = time.perf_counter() - start
    again, features, _ = ours()
    error = float((features - reference).norm() / reference.norm())
    beside = f"DataLoader of PIL images, {WORKERS} workers, float32"
    for name, seconds in (("decoded now", first), ("decoded before", again)):
        yield Row(
            f"{what} to features of ResNet-18 at {RESOLUTION} px, {name}",
            seconds,
            theirs,
            beside,
            f"{len(split) / seconds:,.0f} images/s against {len(split) / theirs:,.0f}; features apart by {error:.1e}",
        )


def precision_rows(data: Dataset) -> Iterator[Row]:
    """Time training and inference in bfloat16 and channels last, beside float32 in torch's default layout."""
    rows = torch.arange(STEPS)
    layouts = {"auto": torch.channels_last, "float32": torch.contiguous_format}
    x = data.train.inputs(rows)
    splits = {
        precision: TensorSplit(rows, data.train.y[rows], data.train.a[rows], x.contiguous(memory_format=layout))
        for precision, layout in layouts.items()
    }
    training, inference = {}, {}
    for precision, layout in layouts.items():
        model = network(layout)
        in_layout = replace(data, train=splits[precision])
        erm = Erm(epochs=1, batch_size=128, precision=precision)  # type: ignore[arg-type]
        erm.fit(model, in_layout, seed=0, device="cpu", progress=False)  # not counted
        training[precision] = erm.fit(model, in_layout, seed=0, device="cpu", progress=False).seconds
        start = time.perf_counter()
        read_out(model.backbone, splits[precision], device="cpu", precision=precision)  # type: ignore[arg-type]
        inference[precision] = time.perf_counter() - start
    for name, seconds in (("training", training), ("inference", inference)):
        ours, theirs = seconds["auto"], seconds["float32"]
        yield Row(
            f"ResNet-18 at {RESOLUTION} px, {name}, n = {STEPS:,}",
            ours,
            theirs,
            "float32, contiguous",
            f"bfloat16, channels last: {STEPS / ours:,.0f} images/s against {STEPS / theirs:,.0f}",
        )


def rows() -> Iterator[Row]:
    """Time CelebA where DATA_DIR has it, else generated photographs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        what = subset(Path(os.environ.get("DATA_DIR", "data")), folder)
        source = CelebA(resolution=RESOLUTION)
        yield from reading_rows(folder, what, source)
        yield from precision_rows(source.load(data_dir=folder, cache_dir=folder / "cache", seed=0))
