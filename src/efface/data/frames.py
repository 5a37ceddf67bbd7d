"""Tables in files: CSV, parquet or feather, one file or one for each split, read as a data frame of pandas."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from efface.data.text import closest, some
from efface.files import file_digest

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".parquet", ".feather")
FILE_SPLIT = "(split of the file)"
"""Column that is made where each split has a file of its own."""


@dataclass(frozen=True)
class TableFiles:
    """The files of a table, in order, and the split that each holds where there is one for each."""

    files: tuple[Path, ...]
    splits: tuple[str, ...] | None
    """`[files]`; None where a column says so, or nothing does."""

    @classmethod
    def find(cls, path: str | Mapping[str, str], data_dir: Path, hint: str = "") -> "TableFiles":
        """Find the files that an option names, as they are or below `data_dir`.

        Args:
            path: a file; or by split a file each, or a pattern such as `train-*.parquet`.
            data_dir: where else to look.
            hint: where the files come from, for the message.

        Raises:
            FileNotFoundError: there is none; the message says where it was looked for.
            ValueError: one is no table.
        """
        named = {"": path} if isinstance(path, str) else path
        pairs = [(split, file) for split, pattern in named.items() for file in _matching(pattern, data_dir, hint)]
        wrong = [str(file) for _, file in pairs if file.suffix.lower() not in SUFFIXES]
        if wrong:
            raise ValueError(f"path: {some(wrong)} is none of {', '.join(SUFFIXES)}: save the table as one of them")
        splits = None if isinstance(path, str) else tuple(split for split, _ in pairs)
        return cls(tuple(file for _, file in pairs), splits)

    def digest(self) -> str:
        """Hash the contents, 64 hex digits."""
        hasher = hashlib.sha256()
        for file in self.files:
            hasher.update(file_digest(file).encode())
        return hasher.hexdigest()

    def __str__(self) -> str:
        return some([str(file) for file in self.files])

    def read(self, *, separator: str = ",", missing_values: Sequence[str] = ()) -> "pd.DataFrame":
        """Read all files into one table, with rows numbered from 0; `FILE_SPLIT` names the split of each, if files do.

        Args:
            separator: between the fields of a CSV file.
            missing_values: strings that stand for a missing value, beside those that pandas knows.

        Raises:
            ValueError: a file cannot be read, has no rows, names a column twice, or has other columns than the first.
        """
        import pandas as pd

        frames = [_read(file, separator, missing_values) for file in self.files]
        for file, frame in zip(self.files, frames, strict=True):
            if set(frame.columns) != set(frames[0].columns):
                odd = sorted(set(frame.columns) ^ set(frames[0].columns))
                raise ValueError(f"path: {file} and {self.files[0]} have different columns, such as {some(odd)}")
        whole = pd.concat(frames, ignore_index=True)
        if self.splits is not None:
            names = zip(self.splits, frames, strict=True)
            whole[FILE_SPLIT] = [split for split, frame in names for _ in range(len(frame))]
        return whole


def require_columns(frame: "pd.DataFrame", options: Mapping[str, Sequence[str]], source: object) -> None:
    """Check that a table has the columns that options name.

    Args:
        frame: the table.
        options: columns by the option that names them.
        source: of the table, for the message.

    Raises:
        ValueError: one is not there; the message names those that it may mean.
    """
    known = [str(name) for name in frame.columns]
    for option, names in options.items():
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{option}: {source} has no column {name!r}: did you mean {closest(name, known)}? It has "
                    f"{len(known)} columns"
                )


def _matching(pattern: str, data_dir: Path, hint: str) -> list[Path]:
    """Find a file, or those of a pattern, as they are or below `data_dir`."""
    path = Path(pattern).expanduser()
    candidates = list(dict.fromkeys([path, data_dir / path]))
    for candidate in candidates:
        if candidate.is_file():
            return [candidate]
        matches = sorted(candidate.parent.glob(candidate.name)) if "*" in candidate.name else []
        if files := [file for file in matches if file.suffix.lower() in SUFFIXES]:
            return files
    places = " nor ".join(str(candidate.resolve()) for candidate in candidates)
    raise FileNotFoundError(
        f"path: there is no file {places}. "
        + (hint or "Set dataset.path to a table, or data_dir=... (or DATA_DIR) to the folder that it is in")
    )


def _read(file: Path, separator: str, missing_values: Sequence[str]) -> "pd.DataFrame":
    """Read one file."""
    import pandas as pd

    suffix = file.suffix.lower()
    separator = "\t" if suffix == ".tsv" else separator
    if suffix in (".csv", ".tsv"):
        _require_header(file, separator)
    try:
        if suffix in (".csv", ".tsv"):
            frame = pd.read_csv(
                file,
                sep=separator,
                skipinitialspace=True,
                na_values=list(missing_values),
                encoding="utf-8-sig",
                low_memory=False,
                index_col=False,
            )
        else:
            frame = pd.read_parquet(file) if suffix == ".parquet" else pd.read_feather(file)
            frame = frame.reset_index(drop=frame.index.name is None)
    except (ValueError, OSError, KeyError, csv.Error) as error:  # those of pandas, pyarrow and Python's own decoder
        raise ValueError(f"path: {file} cannot be read ({_first_line(error)}): save it anew, text in UTF-8") from error
    _require_different(list(map(str, frame.columns)), file)
    if not len(frame):
        raise ValueError(f"path: {file} has no rows")
    if missing_values and suffix not in (".csv", ".tsv"):
        frame = _without(list(missing_values), frame)
    return frame.rename(columns=str)


def _without(values: list[str], frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with None in place of some values. Columns of lists, which have none of them, stay."""
    lists = [
        name
        for name in frame.columns
        if frame[name].dtype == object and any(isinstance(value, list | dict | np.ndarray) for value in frame[name])
    ]
    return frame.drop(columns=lists).replace(values, None).join(frame[lists])[list(frame.columns)]


def _require_header(file: Path, separator: str) -> None:
    """Check the first line of a CSV file: pandas would give columns of one name different ones.

    Bytes that are no UTF-8 are left to pandas.

    Raises:
        ValueError: the message names the columns of one name, or the separator to be set.
    """
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = [name.strip() for name in next(csv.reader(lines, delimiter=separator), [])]
    _require_different([name for name in header if name], file)
    if len(header) == 1 and (others := [mark for mark in ";\t,|" if mark in header[0]]):
        mark = others[0].replace("\t", "\\t")
        raise ValueError(
            f"separator: the first line of {file} is one field, with {mark!r} in it: set 'dataset.separator=\"{mark}\"'"
        )


def _require_different(names: list[str], file: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"path: {file} has two columns of the name {some(twice)}: rename one")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
