"""Word vectors in GloVe's text format: a word and its numbers on each line, plain or compressed by gzip."""

import gzip
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from efface.cache import Entry, cached
from efface.data.text import some
from efface.data.vocabulary import Vocabulary

_GZIP, _ZIP = b"\x1f\x8b", b"PK"
"""How such files begin."""


def vocabulary_of(file: Path, *, most: int, cache_dir: Path, content: str) -> Vocabulary:
    """Read the first words of a file through the cache.

    Args:
        file: words from frequent to rare.
        most: how many words at most.
        cache_dir: of `efface.cache`.
        content: a hash that changes when the file does; part of the key.

    Raises:
        ValueError: see `read_vectors`.

    Cost: of reading 150,000 words in 100 dimensions, some 10 s; from the cache a tenth of a second.
    """

    def build() -> Entry:
        words, vectors = read_vectors(file, most=most)
        text = np.frombuffer("\n".join(words).encode(), np.uint8)
        return {"vectors": torch.from_numpy(vectors), "words": torch.from_numpy(text.copy())}, {}

    tensors, _, _ = cached(cache_dir, "vectors", {"content": content, "most": most}, build)
    text = tensors["words"].numpy().tobytes().decode()
    return Vocabulary(tuple(text.split("\n")), tensors["vectors"])


def read_vectors(file: Path, *, most: int) -> tuple[list[str], np.ndarray]:
    """Read the first words of a file, `n` at most `most`, and their vectors `[n, d]` float32.

    The first line tells d. A word may hold blanks, as some of GloVe's do.

    Raises:
        ValueError: a line has another number of entries, holds what is no finite number, is not in UTF-8 or repeats a
            word; or the file is empty, damaged or a zip archive. File and line are named.
    """
    lines_of: dict[str, int] = {}
    vectors: list[np.ndarray] = []
    for number, line in _lines(file):
        if number > most:
            break
        entries = len(vectors[0]) if vectors else len(line.split()) - 1
        word, vector = _parsed(line, entries, f"{file}, line {number}")
        if word in lines_of:
            raise ValueError(f"{file}, line {number} repeats the word {word!r} of line {lines_of[word]}: delete one")
        lines_of[word] = number
        vectors.append(vector)
    if not vectors:
        raise ValueError(f"{file} is empty: fetch it again")
    return list(lines_of), np.stack(vectors)


def _parsed(line: bytes, entries: int, place: str) -> tuple[str, np.ndarray]:
    """Return word and vector of a line that should hold so many numbers."""
    if entries < 2:
        raise ValueError(
            f"{place} has {entries + 1} entries, but must hold a word and two numbers or more; a first line of two "
            "numbers, as word2vec writes it, has to be deleted"
        )
    first, _, rest = line.partition(b" ")
    vector = _numbers(rest)
    if vector is None or len(vector) != entries:  # the word may hold blanks
        first, *parts = line.rsplit(b" ", entries)
        vector = _numbers(b" ".join(parts))
    if vector is None or len(vector) != entries:
        raise ValueError(
            f"{place} has {len(line.split())} entries, of which the last {entries} should be numbers as on line 1: "
            "fetch the file again"
        )
    if not np.isfinite(vector).all():
        wrong = [str(value) for value in vector[~np.isfinite(vector)]]
        raise ValueError(f"{place} holds {some(wrong)}: all numbers must be finite")
    try:
        return first.decode(), vector
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not in UTF-8 ({error.reason}): save the file as UTF-8") from error


def _numbers(text: bytes) -> np.ndarray | None:
    """Return the numbers of a text `[d]` float32; None if something else is there."""
    with warnings.catch_warnings():  # older versions of numpy warn, and return what comes before
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, dtype=np.float32, sep=" ")
        except (ValueError, DeprecationWarning):
            return None


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Read lines with their numbers; a line ends at a line feed and at no other character, which a word may hold."""
    with file.open("rb") as raw:
        start = raw.read(2)
    if start == _ZIP:
        raise ValueError(f"{file} is a zip archive: unpack it, and name the .txt file")
    number = 0
    try:
        with gzip.open(file) if start == _GZIP else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.rstrip(b"\r\n ")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file}, line {number + 1} is cut short or damaged ({error}): fetch it again") from error
