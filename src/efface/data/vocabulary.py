"""Words and their vectors, which a data set of words draws its samples from."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """Words `n`, each once, and their vectors `[n, d]` float32, from frequent to rare."""

    words: tuple[str, ...]
    vectors: Tensor

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def row(self, word: str) -> int | None:
        """Return the row of a word as it is written, else in lower case; None if it has neither."""
        return self._rows.get(word, self._rows.get(word.lower()))

    def rows(self, words: Iterable[str]) -> list[int]:
        """Return the rows of the words that are there, in their order."""
        return [row for word in words if (row := self.row(word)) is not None]
