"""The word lists of WEAT and the pairs of SimLex-999, from their files."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from efface.data.text import numbered_lines
from efface.data.vocabulary import Vocabulary

SIMLEX = "simlex/simlex999.txt"
_SETS = ("targ1", "targ2", "attr1", "attr2")
_NAMES_FIRST = ("attr1", "attr2", "targ1", "targ2")
WEAT = {
    "weat6": ("weat/weat6.jsonl", _SETS),
    "weat7": ("weat/weat7b.jsonl", _NAMES_FIRST),
    "weat8": ("weat/weat8b.jsonl", _NAMES_FIRST),
}
"""Files, and the sets that are targets x and y and attributes a and b. The 16 first names are the targets, as in
Ravfogel et al., 2022; the files of WEAT 7b and 8b have them as attributes."""
WHERE = {
    "weat": "the lists of Caliskan et al., 2017, as JSON with targ1, targ2, attr1, attr2, each with a list `examples`",
    "simlex": "SimLex-999 as lines of two words and the human mean, separated by tabs, "
    "https://fh295.github.io/simlex.html",
}


@dataclass(frozen=True)
class WordSets:
    """Four sets of words: the targets x and y, and the attributes a and b."""

    x: tuple[str, ...]
    y: tuple[str, ...]
    a: tuple[str, ...]
    b: tuple[str, ...]

    @property
    def sets(self) -> dict[str, tuple[str, ...]]:
        """By name."""
        return {"x": self.x, "y": self.y, "a": self.a, "b": self.b}

    def missing(self, vocabulary: Vocabulary) -> list[str]:
        """Return the words that have no vector, sorted."""
        return sorted({word for words in self.sets.values() for word in words if vocabulary.row(word) is None})

    def too_few(self, vocabulary: Vocabulary) -> str | None:
        """Say which set has fewer than half of its words in the vocabulary; None if none has."""
        for name, words in self.sets.items():
            known = vocabulary.rows(words)
            if 2 * len(known) < len(words):
                return f"only {len(known)} of the {len(words)} words {', '.join(words)} have a vector ({name})"
        return None


@dataclass(frozen=True)
class WordPairs:
    """Pairs of words, and how similar people find them `[n]` float64."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    human: Tensor

    def missing(self, vocabulary: Vocabulary) -> list[str]:
        """Return the words that have no vector, sorted."""
        return sorted(word for word in {*self.first, *self.second} if vocabulary.row(word) is None)

    def known(self, vocabulary: Vocabulary) -> tuple[list[int], list[int], list[int]]:
        """Return numbers and rows of the pairs of which both words have a vector."""
        rows = [(vocabulary.row(u), vocabulary.row(v)) for u, v in zip(self.first, self.second, strict=True)]
        both = [(i, u, v) for i, (u, v) in enumerate(rows) if u is not None and v is not None]
        return [i for i, _, _ in both], [u for _, u, _ in both], [v for _, _, v in both]


def files(data_dir: Path) -> list[Path]:
    """Return all files that are read.

    Raises:
        FileNotFoundError: one is not there.
    """
    paths = [data_dir / name for name in (*(file for file, _ in WEAT.values()), SIMLEX)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"evaluation=word_embeddings: no file {path.resolve()}. Put there {WHERE[path.parent.name]}"
            )
    return paths


def read_weat(data_dir: Path) -> dict[str, WordSets]:
    """Read the tests by the name of their metrics.

    Raises:
        ValueError: a file is no JSON of four sets of words.
    """
    return {name: _read_sets(data_dir / file, roles) for name, (file, roles) in WEAT.items()}


def _read_sets(path: Path, roles: tuple[str, ...]) -> WordSets:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        x, y, a, b = (tuple(str(word) for word in content[role]["examples"]) for role in roles)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): put there {WHERE['weat']}") from error
    if not all((x, y, a, b)):
        raise ValueError(f"{path} has an empty list of words: put there {WHERE['weat']}")
    return WordSets(x, y, a, b)


def read_simlex(data_dir: Path) -> WordPairs:
    """Read the pairs.

    Raises:
        ValueError: a line does not hold two words and a number; file and line are named.
    """
    path, rows = data_dir / SIMLEX, []
    for number, line in numbered_lines(path):
        if line.strip() and not line.startswith("#"):
            try:
                first, second, human = line.split("\t")
                rows.append((first, second, float(human)))
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is {line!r}: put there {WHERE['simlex']}") from error
    if len(rows) < 3:
        raise ValueError(f"{path} has {len(rows)} pairs of words: put there {WHERE['simlex']}")
    first_words, second_words, human_means = zip(*rows, strict=True)
    return WordPairs(first_words, second_words, torch.tensor(human_means, dtype=torch.float64))
