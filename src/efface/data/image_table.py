"""Your own pictures: a folder, and a table that says what each picture shows, such as Waterbirds."""

import os
from pathlib import Path
from typing import Annotated

from efface.data.base import Dataset, Split
from efface.data.columns import LabelColumns, assembled, require_complete
from efface.data.frames import TableFiles
from efface.data.images import AnyFraming, ImageSplit, content_of, decoded
from efface.data.text import some
from efface.files import digest
from efface.options import Ge, Le, options


@options
class ImageTable(LabelColumns):
    """A folder of pictures of any size, with a table of their names, labels and attributes.

    Waterbirds as group DRO publishes it is `file=img_filename target=y protected=[place] split=split`. A pair is two
    pictures of one label and different attributes.

    Args:
        root: the folder; looked for where it says, then below `data_dir`.
        metadata: the table, CSV, parquet or feather, within the folder.
        file: the column that names each picture, relative to the folder.
        resolution: side in pixels of the square that is cut out of the middle, up to 1024.
        resize: side to which the shorter side of a picture is brought before, at least `resolution`; None for the same.
        stretch: bring both sides to `resize`, as group DRO's code does for Waterbirds (256, then 224).
        grayscale: one channel instead of three.
    """

    root: str
    metadata: str = "metadata.csv"
    file: str
    resolution: Annotated[int, Ge(1), Le(1024)] = 224
    resize: Annotated[int, Ge(1), Le(4096)] | None = None
    stretch: bool = False
    grayscale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < self.resolution:
            raise ValueError(
                f"resize is {self.resize}, but the square that is cut out afterwards has {self.resolution} pixels: "
                "raise it, or lower the resolution"
            )
        if self.file in self.used:
            raise ValueError(f"file is {self.file!r}, which is in use as another column: name that of the pictures")

    def fingerprint(self, data_dir: Path) -> str:
        """Hash the table, and the pictures' names and sizes; 0.2 s for 10,000 pictures."""
        folder, table, names = self._names(data_dir)
        return digest(table.digest().encode(), self._content(folder, names).encode())

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the table, and decode the pictures if the cache does not have them. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)  # before the files are read, which may change meanwhile
        folder, table, names = self._names(data_dir)
        content = self._content(folder, names)
        labels = self.labels(table.read(), table)
        framing = AnyFraming(self.resize or self.resolution, self.stretch)
        images = decoded(
            [folder / name for name in names],
            framing=framing,
            resolution=self.resolution,
            grayscale=self.grayscale,
            cache_dir=cache_dir,
            content=content,
        )
        splits: dict[str, Split] = {
            name: ImageSplit(index=rows, **labels.at(rows), rows=rows, images=images)
            for name, rows in labels.parts.items()
        }
        return assembled(
            splits,
            labels,
            table,
            flippable=False,
            input_shape=images.shape,
            fingerprint=fingerprint,
            per_sample_inputs=True,
            target=self.target,
            inputs_key=f"images {content} {self.resolution} {framing.key} {self.grayscale}",
        )

    def _names(self, data_dir: Path) -> tuple[Path, TableFiles, list[str]]:
        """Find the folder and its table, and read the pictures' names.

        Raises:
            FileNotFoundError: one is not there.
            ValueError: the table lacks a column, or names no picture, or one twice.
        """
        path = Path(self.root).expanduser()
        folder = next((place for place in (path, data_dir / path) if place.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(
                f"root: there is no folder {path.resolve()} nor {(data_dir / path).resolve()}: set dataset.root to the "
                "folder of the pictures, or data_dir=... (or DATA_DIR) to the one that it is in"
            )
        table = TableFiles.find(str(folder / self.metadata), data_dir)
        frame = table.read()
        self.require(frame, table, file=[self.file])
        require_complete(frame[self.file], "file", table)
        names = [str(name) for name in frame[self.file]]
        twice = sorted(frame[self.file][frame[self.file].duplicated()].astype(str).unique())
        if twice:
            raise ValueError(
                f"file: {table} names {len(twice):,} pictures twice, such as {some(twice, 2)}: they might be in train "
                "and in test; leave one row for each"
            )
        return folder, table, names

    def _content(self, folder: Path, names: list[str]) -> str:
        """Hash the pictures' names and sizes."""
        sizes = {name: os.stat(folder / name).st_size for name in names if (folder / name).is_file()}
        return content_of(folder, names, sizes)
