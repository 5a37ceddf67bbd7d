"""CelebA: photographs of faces with 40 attributes, one of which is the target and others are protected.

Liu et al., "Deep learning face attributes in the wild", ICCV 2015. The official splits and preprocessing are those of
group DRO (Sagawa et al., "Distributionally robust neural networks for group shifts", ICLR 2020).
"""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from efface.data.base import Dataset, Pairs, Split, matched_pairs, require_every_class, require_two_attributes
from efface.data.groups import group_counts, groups
from efface.data.images import AlignedFraming, Images, ImageSplit, content_of, decoded
from efface.data.people import FOLDS, deal, fold_parts
from efface.data.text import closest, numbered_lines, some
from efface.options import Ge, Le, Len, options

SIZE, CROP = (178, 218), 178
"""Size of the aligned photographs, and side of the central square that is cut out of them, in pixels."""

_ATTRIBUTES, _PARTITION, _IDENTITY = "list_attr_celeba", "list_eval_partition", "identity_CelebA"
_IMAGES = "img_align_celeba"
_WITHIN = ("", "Anno", "Eval", "Img", "data")
"""Where the official archive and group DRO's code put lists and images, within the folder."""
_PARTS = {"train": 0, "val": 1, "test": 2}
"""Numbers of the official partition."""


@options
class CelebA:
    """Options of CelebA, read from `data_dir/celeba`.

    The folder holds `img_align_celeba/NNNNNN.jpg` and the lists, whole or cut to a subset: `list_attr_celeba`,
    `list_eval_partition` and, if there, `identity_CelebA`, as `.txt` (official) or `.csv` (Kaggle, group DRO).

    No person is in two splits, and the groups are as equal as whole people allow: features identify people, and a probe
    would learn that. A pair is two photographs of one label and different attributes, of different people.

    Args:
        target: the attribute to predict, such as `Blond_Hair`.
        attributes: one or more protected attributes; m of them make 2^m values, the first the lowest bit, as in group
            DRO.
        split: `official`: train and test are the official ones, and the official val is halved into val and pairs.
            `people`: all people of the photographs at hand, whatever the official partition says, are dealt out to five
            folds, the same for every target; the tests of the five folds hold every photograph once.
        fold: 0 … 4, with `people` alone: whose people are test. See `efface.data.people.fold_parts`.
        resolution: side in pixels after the central square of 178 was cut out, up to 1024.
        grayscale: one channel instead of three.
    """

    target: str = "Blond_Hair"
    attributes: Annotated[Sequence[str], Len(1)] = ("Male",)
    split: Literal["official", "people"] = "official"
    fold: Annotated[int, Ge(0), Le(FOLDS - 1)] | None = None
    resolution: Annotated[int, Ge(1), Le(1024)] = 160
    grayscale: bool = False

    def __post_init__(self) -> None:
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError(f"attributes is {list(self.attributes)}: one is named twice")
        if self.target in self.attributes:
            raise ValueError(f"target is {self.target!r}, which is protected: attributes is {list(self.attributes)}")
        if self.split == "official" and self.fold is not None:
            raise ValueError(f"fold is {self.fold}, but split=official has no folds: split=people has")
        if self.split == "people" and self.fold is None:
            raise ValueError(f"split is 'people', but no fold is named: fold=0 to fold={FOLDS - 1}")

    def fingerprint(self, data_dir: Path) -> str:
        """Hash the lists, and the images' names and sizes; 0.1 s for 10,000 images."""
        folder = _Folder.find(data_dir)
        names = [name for name, _ in folder.attributes([])]
        return hashlib.sha256((folder.digest() + folder.content(names)).encode()).hexdigest()[:16]

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the lists. Images are decoded, or found in the cache, when one is read. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)  # before the files are read, which may change meanwhile
        folder = _Folder.find(data_dir)
        table = list(folder.attributes([self.target, *self.attributes]))
        names = [name for name, _ in table]
        content = folder.content(names)  # first: it names the images that are missing
        identity = torch.tensor(folder.numbers(_IDENTITY, names)) if folder.file(_IDENTITY) else None
        y, a = self._labels([values for _, values in table])
        classes = (f"not {self.target}", self.target)
        attributes = tuple(_value_name(self.attributes, value) for value in range(2 ** len(self.attributes)))
        parts = self._parts(folder, names, a, groups(y, a, len(attributes)), identity)
        images = self._decoded([folder.images / name for name in names], content, cache_dir)
        index = torch.tensor([int(name.partition(".")[0]) for name in names])
        splits: dict[str, Split] = {
            name: ImageSplit(
                index=index[rows],
                y=y[rows],
                a=a[rows],
                rows=rows,
                images=images,
                cluster=None if identity is None else identity[rows],
            )
            for name, rows in parts.items()
        }
        _require_values(folder, splits, classes, attributes)
        generator = torch.Generator().manual_seed(0)
        pairs = {name: matched_pairs(splits[name], generator) for name in ("val", "pairs", "test")}
        _warn_of_gaps(folder, splits, pairs["pairs"], classes, attributes, identity is not None)
        return Dataset.from_parts(
            splits,
            pairs,
            classes=classes,
            attributes=attributes,
            input_shape=images.shape,
            flippable=False,
            fingerprint=fingerprint,
            per_sample_inputs=True,
            target=self.target,
            inputs_key=f"celeba {content} {self.resolution} {self.grayscale}",
        )

    def _parts(
        self, folder: "_Folder", names: list[str], a: Tensor, group: Tensor, identity: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the rows of each split.

        Raises:
            FileNotFoundError: folds are asked for, but nobody knows who is in which photograph.
        """
        if self.fold is not None:
            if identity is None:
                raise FileNotFoundError(
                    f"split is 'people', but {folder.path} has no {_IDENTITY}.txt or .csv, which says who is in each "
                    "photograph: put it beside the other lists, or take split=official"
                )
            return fold_parts(self.fold, strata=a, group=group, person=identity)
        partition = torch.tensor(folder.numbers(_PARTITION, names, allowed=list(_PARTS.values())))
        parts = {name: (partition == number).nonzero()[:, 0] for name, number in _PARTS.items()}
        official_val = parts["val"]
        person = torch.arange(len(official_val)) if identity is None else identity[official_val]
        half = deal(group[official_val], person, [1, 1])
        return parts | {"val": official_val[half == 0], "pairs": official_val[half == 1]}

    def _decoded(self, files: list[Path], content: str, cache_dir: Path) -> Images:
        """Return the images at this resolution, none of which has been read yet."""
        return decoded(
            files,
            framing=AlignedFraming(SIZE, CROP),
            resolution=self.resolution,
            grayscale=self.grayscale,
            cache_dir=cache_dir,
            content=content,
        )

    def _labels(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return y and a of the images, from rows of 0 or 1 in the target and in each attribute."""
        values = torch.from_numpy(np.array(rows, dtype=np.int64).reshape(len(rows), -1))
        return values[:, 0], (values[:, 1:] << torch.arange(len(self.attributes))).sum(1)


def _require_values(
    folder: "_Folder", splits: dict[str, Split], classes: tuple[str, ...], attributes: tuple[str, ...]
) -> None:
    """Check that train, val and test have every class, and that train has two values of the attribute or more."""
    require_every_class({name: splits[name] for name in ("train", "val", "test")}, classes)
    require_two_attributes(splits["train"], attributes, folder.path)


@dataclass(frozen=True)
class _Folder:
    """The folders of lists and images."""

    path: Path
    images: Path

    @classmethod
    def find(cls, data_dir: Path) -> "_Folder":
        """Find the folders below `data_dir/celeba`.

        Raises:
            FileNotFoundError: the images or a list are not there.
        """
        path = data_dir / "celeba"
        candidates = [path / within / _IMAGES for within in _WITHIN]
        images = next((folder for folder in candidates if folder.is_dir()), None)
        if images is not None and (images / _IMAGES).is_dir():  # Kaggle's archive has the folder twice
            images /= _IMAGES
        folder = cls(path, path / _IMAGES if images is None else images)
        missing = [f"{name}.txt or .csv" for name in (_ATTRIBUTES, _PARTITION) if folder.file(name) is None]
        missing += [] if images else [f"folder {_IMAGES}"]
        if missing:
            raise FileNotFoundError(
                f"{path.resolve()} has no {', no '.join(missing)}. Put CelebA's aligned images and lists there, or set "
                "data_dir=... (or DATA_DIR) to the folder that celeba is in. dataset=colored_mnist_mini needs no files"
            )
        return folder

    def file(self, stem: str) -> Path | None:
        """Return the list of that name; None if there is none."""
        places = (self.path / within / f"{stem}{suffix}" for within in _WITHIN for suffix in (".txt", ".csv"))
        return next((file for file in places if file.is_file()), None)

    def digest(self) -> str:
        """Hash the lists."""
        digest = hashlib.sha256()
        for file in (self.file(stem) for stem in (_ATTRIBUTES, _PARTITION, _IDENTITY)):
            digest.update(file.read_bytes() if file else b"")
        return digest.hexdigest()

    def content(self, names: Sequence[str]) -> str:
        """Hash the images' names and sizes. Warns of images that no list names.

        Raises:
            FileNotFoundError: images that the lists name are not there.
        """
        with os.scandir(self.images) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(".jpg")}
        content = content_of(self.images, names, sizes)
        if len(sizes) > len(names):
            extra = sorted(set(sizes) - set(names))
            warnings.warn(
                f"{self.images} has {len(extra):,} images that {self.file(_ATTRIBUTES)} does not name, and that are "
                f"not used: {some(extra)}",
                stacklevel=3,
            )
        return content

    def attributes(self, columns: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
        """Read each image's name, and 0 or 1 in each of `columns`."""
        file = self._require(_ATTRIBUTES)
        table = _lines(file)
        number, header = next(table, (1, []))
        announced = int(header[0]) if len(header) == 1 and header[0].isdecimal() else None
        if announced is not None:  # the official list opens with its length
            number, header = next(table, (2, []))
        known = header[1:] if file.suffix == ".csv" else header
        unknown = [name for name in columns if name not in known]
        if unknown:
            raise ValueError(
                f"target or attributes: {unknown[0]!r} is not among the {len(known)} names of {file}, line {number}: "
                f"did you mean {closest(unknown[0], known)}?"
            )
        positions = [known.index(name) + 1 for name in columns]
        named: dict[str, int] = {}
        for number, fields in table:
            if len(fields) != len(known) + 1:
                raise ValueError(
                    f"{file}, line {number}: {len(fields)} fields, but there must be {len(known) + 1}, a name and "
                    f"{len(known)} values"
                )
            if not fields[0].partition(".")[0].isdecimal():
                raise ValueError(f"{file}, line {number}: {fields[0]!r} does not name an image, as 000001.jpg does")
            bad = [fields[i] for i in positions if fields[i] not in ("-1", "0", "1")]
            if bad:
                raise ValueError(f"{file}, line {number}: an attribute is {bad[0]!r}, but must be -1 or 1")
            if fields[0] in named:
                raise ValueError(f"{file}, line {number}: {fields[0]} is in line {named[fields[0]]} already")
            named[fields[0]] = number
            yield fields[0], [int(fields[i] == "1") for i in positions]
        if not named or (announced is not None and len(named) != announced):
            raise ValueError(
                f"{file} names {len(named)} images" + (f", but its first line says {announced}" if announced else "")
            )

    def numbers(self, stem: str, names: Sequence[str], allowed: Sequence[int] = ()) -> list[int]:
        """Read the number that a list gives to each of `names`."""
        file = self._require(stem)
        listed: dict[str, int] = {}
        for number, fields in _lines(file):
            if number == 1 and file.suffix == ".csv" and not fields[-1].lstrip("-").isdigit():
                continue  # the header
            if len(fields) != 2 or not fields[1].isdecimal():
                raise ValueError(f"{file}, line {number}: {' '.join(fields)!r}, but must be a name and a number")
            if allowed and int(fields[1]) not in allowed:
                choice = ", ".join(map(str, allowed))
                raise ValueError(f"{file}, line {number}: the part is {fields[1]}, but must be one of {choice}")
            if fields[0] in listed:
                raise ValueError(f"{file}, line {number}: {fields[0]} has a number already, {listed[fields[0]]}")
            listed[fields[0]] = int(fields[1])
        for source, other, images in (
            (self._require(_ATTRIBUTES), file, [name for name in names if name not in listed]),
            (file, self._require(_ATTRIBUTES), sorted(set(listed) - set(names))),
        ):
            if images:
                raise ValueError(
                    f"the lists disagree: {len(images):,} images of {source} are not in {other}: {some(images)}"
                )
        return [listed[name] for name in names]

    def _require(self, stem: str) -> Path:
        file = self.file(stem)
        assert file is not None  # `find` has looked
        return file


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the number and the fields of each line that is not empty."""
    is_csv = file.suffix == ".csv"
    for number, line in numbered_lines(file):
        if line.strip():
            yield number, [field.strip() for field in line.split(",")] if is_csv else line.split()


def _value_name(attributes: Sequence[str], value: int) -> str:
    return ", ".join(name if value >> bit & 1 else f"not {name}" for bit, name in enumerate(attributes))


def _warn_of_gaps(
    folder: _Folder,
    splits: dict[str, Split],
    pairs: Pairs,
    classes: tuple[str, ...],
    attributes: tuple[str, ...],
    identities: bool,
) -> None:
    """Warn of gaps in these images: empty groups, labels without pairs, unknown identities."""
    gaps = []
    for name, split in splits.items():
        empty = group_counts(split.y, split.a, len(classes), len(attributes)) == 0
        cells = [f"{classes[i]} & {attributes[j]}" for i, j in empty.nonzero().tolist()]
        gaps += [f"{name} has no image of {some(cells)}"] if cells else []
    paired = set(pairs.split.y[pairs.rows].tolist())
    lonely = [label for i, label in enumerate(classes) if i not in paired]
    gaps += [f"{some(lonely)} has no pairs, for want of another attribute value in that split"] if lonely else []
    if not identities:
        gaps.append(f"no {_IDENTITY}.txt, so that a person may be in both val and pairs and in both halves of a probe")
    if gaps:
        warnings.warn(f"{folder.path}: {'; '.join(gaps)}", stacklevel=3)
