"""Photographs decoded once, by several threads, into one memory-mapped array of uint8."""

import functools
import hashlib
import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from efface.cache import cached_array
from efface.data.text import some

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNEL_MEAN, CHANNEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's images in 0 … 1, on which torchvision's weights were trained."""
GREY_MEAN, GREY_STD = (0.449,), (0.226,)
"""The same, averaged over the channels."""

_CHUNK = 512
_RESIDENT = 2**26
"""Bytes read through the map before its pages are released: rows drawn at random bring up to five times as many."""


class Images:
    """Rows of a decoded array, which is opened when the first of them is read, and read from disk on demand.

    The operating system caches as many pages as it has room for. Pages that were read count as memory of this process
    until they are released, which happens after every 64 MB.

    Args:
        shape: (n, h, w, c) of the array, with one channel (grey) or three.
        opened: returns the array, uint8.
    """

    def __init__(self, shape: tuple[int, int, int, int], opened: Callable[[], np.memmap]) -> None:
        self._shape, self._opened = shape, opened
        self._read = 0
        grey = shape[3] == 1
        mean, std = (torch.tensor(v) for v in ((GREY_MEAN, GREY_STD) if grey else (CHANNEL_MEAN, CHANNEL_STD)))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, h, w, c = self._shape
        return c, h, w

    @functools.cached_property
    def _array(self) -> np.memmap:
        return self._opened()

    def raw(self, rows: Tensor) -> Tensor:
        """Read uint8 `[len(rows), h, w, c]`."""
        pixels = torch.from_numpy(np.asarray(self._array[rows.numpy()]))
        self._read += pixels.numel()
        if self._read > _RESIDENT and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            cast(Any, self._array.base).madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return pixels

    def normalised(self, rows: Tensor, device: str | torch.device = "cpu") -> Tensor:
        """Read float32 `[len(rows), c, h, w]` in the channels-last layout, centred and scaled like ImageNet."""
        x = self.raw(rows).to(device).permute(0, 3, 1, 2).to(torch.float32)
        scale, shift = (v.to(device)[:, None, None] for v in (self._scale, self._shift))
        return x.mul_(scale).add_(shift)


@dataclass(frozen=True)
class ImageSplit:
    """Pictures of one split."""

    index: Tensor
    y: Tensor
    a: Tensor
    cluster: Tensor | None
    """`[n]` int64: who or what is shown; None where it is not known."""
    rows: Tensor
    """`[n]`: rows of `images`."""
    images: Images

    def inputs(self, rows: Tensor, *, a: Tensor | None = None, device: str | torch.device = "cpu") -> Tensor:
        """Read `[len(rows), c, h, w]`, centred and scaled like ImageNet."""
        if a is not None:
            raise ValueError("a: nothing was photographed twice, under one attribute and another: no counterfactuals")
        return self.images.normalised(self.rows[rows], device)

    def __len__(self) -> int:
        return len(self.y)


class Framing(Protocol):
    """How a picture becomes a square."""

    @property
    def key(self) -> dict[str, Any]:
        """What the square depends on beside its side, for the key of the cache."""
        ...

    def square(self, image: "Image", resolution: int) -> "Image":
        """Return `[resolution, resolution]` pixels of a picture.

        Raises:
            ValueError: it has another size than it must have.
        """
        ...


@dataclass(frozen=True)
class AlignedFraming:
    """Pictures of one size, such as aligned faces: the central square of `crop` pixels, resized.

    With Pillow's bilinear filter: torchvision's `CenterCrop` and `Resize` of a PIL image.

    Args:
        size: (width, height).
        crop: side of the square, at most the shorter side.
    """

    size: tuple[int, int]
    crop: int

    @property
    def key(self) -> dict[str, Any]:
        return {"crop": self.crop}

    def square(self, image: "Image", resolution: int) -> "Image":
        if image.size != self.size:
            sizes = f"{image.size[0]} × {image.size[1]}, but must be {self.size[0]} × {self.size[1]} pixels"
            raise ValueError(f"it is {sizes}")
        return _central(image, self.crop).resize((resolution, resolution), _bilinear())


@dataclass(frozen=True)
class AnyFraming:
    """Pictures of any size: resized, then cut to the central square.

    With Pillow's bilinear filter: torchvision's `Resize` and `CenterCrop` of a PIL image.

    Args:
        resize: side in pixels to which the shorter side is brought.
        stretch: bring both sides to it, whatever the shape, as group DRO's code does for Waterbirds.
    """

    resize: int
    stretch: bool

    @property
    def key(self) -> dict[str, Any]:
        return {"resize": self.resize, "stretch": self.stretch}

    def square(self, image: "Image", resolution: int) -> "Image":
        shorter = min(image.size)
        width, height = ((self.resize if self.stretch else self.resize * side // shorter) for side in image.size)
        return _central(image.resize((width, height), _bilinear()), resolution)


def decoded(
    files: Sequence[Path], *, framing: Framing, resolution: int, grayscale: bool, cache_dir: Path, content: str
) -> Images:
    """Return the images of `files` in order; the first that is read decodes them all, unless the cache has them.

    So a run whose features are in the cache neither decodes nor checks images that it does not need.

    Args:
        files: JPEG, PNG or what else Pillow reads; they are turned upright where the camera says how.
        framing: makes a square of each.
        resolution: side of the square.
        grayscale: one channel of luma (ITU-R 601-2), instead of three of colour.
        cache_dir: of `efface.cache`.
        content: a hash that changes when a file does; part of the key.

    Raises:
        ValueError: on reading, where images are damaged, cut short or of another size; each by name.

    Cost: of the first reading, a pass over the array for its checksum, 0.3 s for 6,000 images of 160 px. Of decoding,
    measured at 64 px: about 1,500 images a second and core; memory for 512 decoded images.
    """
    shape = (len(files), resolution, resolution, 1 if grayscale else 3)
    names = hashlib.sha256("\n".join(file.name for file in files).encode()).hexdigest()
    key = {"content": content, "names": names, **framing.key}

    def decode_into(file: Path, out: np.ndarray) -> str | None:
        """Return None, or why the file cannot be used."""
        from PIL.Image import DecompressionBombError

        try:
            out[:] = decode(file, framing=framing, resolution=resolution, grayscale=grayscale)
        except (OSError, SyntaxError, ValueError, DecompressionBombError) as error:  # all that Pillow raises
            return f"{file} ({error})"
        return None

    def chunks() -> Iterator[np.ndarray]:
        failures: list[str] = []
        main = multiprocessing.parent_process() is None
        buffer = np.empty((min(_CHUNK, len(files)), *shape[1:]), np.uint8)
        with (
            ThreadPoolExecutor(_workers(), thread_name_prefix="decode") as pool,
            tqdm(total=len(files), desc="decode", unit="image", disable=None if main else True, leave=False) as bar,
        ):
            for start in range(0, len(files), _CHUNK):
                part = files[start : start + _CHUNK]
                # Pillow decodes and resizes without the interpreter's lock.
                for failure in pool.map(decode_into, part, buffer):
                    bar.update()
                    failures += [failure] if failure else []
                yield buffer[: len(part)]
        if failures:
            raise ValueError(
                f"{len(failures)} of {len(files)} images cannot be used: {some(failures)}. Extract them again, or take "
                "them out of the lists"
            )

    return Images(shape, lambda: cached_array(cache_dir, "images", key, shape, chunks))


def decode(file: Path, *, framing: Framing, resolution: int, grayscale: bool) -> np.ndarray:
    """Decode one image to uint8 `[resolution, resolution, c]`; see `decoded`."""
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image).convert("L" if grayscale else "RGB")
        return np.asarray(framing.square(upright, resolution)).reshape(resolution, resolution, -1)


def content_of(folder: Path, names: Sequence[str], sizes: Mapping[str, int]) -> str:
    """Hash the names and sizes of the images that a list names.

    Args:
        folder: where they are, for the message.
        names: relative to the folder.
        sizes: in bytes, of the files that are there.

    Raises:
        FileNotFoundError: some are not there.
    """
    missing = [name for name in names if name not in sizes]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing):,} of the {len(names):,} images that its list names: {some(missing)}. "
            "Extract them again, or cut the list to the images that are there"
        )
    return hashlib.sha256("".join(f"{name} {sizes[name]}\n" for name in names).encode()).hexdigest()


def _central(image: "Image", side: int) -> "Image":
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _bilinear() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR


def _workers() -> int:
    """Count the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
