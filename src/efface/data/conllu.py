"""Text whose words are labelled: Universal Dependencies treebanks, and any other file in CoNLL-U.

A document is a text with a label for each word and the characters that the word covers, so that any tokeniser can be
aligned with it.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from efface.data.text import numbered_lines
from efface.options import Ge, options

_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_ID = r"\d+([-.]\d+)?"
"""Of a word, of several that are written as one, or of a word that is understood."""


Words = list[tuple[int, int, str]]
"""First character, the one after the last, and label of each word of a sentence, in order."""


@dataclass(frozen=True)
class Document:
    """A text and its labelled words."""

    text: str
    words: tuple[tuple[int, int, str], ...]
    """For each labelled word: its first character, the one after its last, and its label. In order, without overlap."""


@dataclass(frozen=True)
class TaggedText:
    """Documents in three disjoint parts: fit on train, select on dev, report test."""

    train: tuple[Document, ...]
    dev: tuple[Document, ...]
    test: tuple[Document, ...]
    tags: tuple[str, ...]
    """The labels that occur in train, sorted."""
    fingerprint: str

    def __post_init__(self) -> None:
        for name, documents in (("train", self.train), ("dev", self.dev), ("test", self.test)):
            if not any(document.words for document in documents):
                raise ValueError(f"{name} has no labelled word: give it some text")
            unknown = sorted({tag for document in documents for _, _, tag in document.words} - set(self.tags))
            if unknown:
                raise ValueError(
                    f"{name} has the tags {', '.join(unknown)}, which train lacks: use one tag set for all parts"
                )


class TextSource(Protocol):
    """The class that a token-labelled data set's configuration names."""

    def fingerprint(self, data_dir: Path) -> str:
        """Return 16 hex digits that change when the files do."""
        ...

    def load(self, data_dir: Path) -> TaggedText:
        """Load the three parts."""
        ...


@options
class Treebank:
    """A Universal Dependencies treebank: `<folder>/<prefix>-{train,dev,test}.conllu` in the data directory.

    Args:
        folder: the treebank's folder below `data_dir`.
        prefix: the beginning of the names of the three files.
        column: the column with the label of a word: `upos`, `xpos` or `deprel`.
        train_documents: how many documents of train to take, from its beginning; None for all.
        test_documents: the same of dev and of test.
    """

    folder: str
    prefix: str
    column: Literal["upos", "xpos", "deprel"] = "upos"
    train_documents: Annotated[int, Ge(1)] | None = None
    test_documents: Annotated[int, Ge(1)] | None = None

    def fingerprint(self, data_dir: Path) -> str:
        digest = hashlib.sha256()
        for path in self.files(data_dir).values():
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def load(self, data_dir: Path) -> TaggedText:
        fingerprint = self.fingerprint(data_dir)  # before the files are read, which may change meanwhile
        return self.text({n: documents(p, self.column) for n, p in self.files(data_dir).items()}, fingerprint)

    def text(self, parts: Mapping[str, Iterable[Document]], fingerprint: str) -> TaggedText:
        """Return the text of labelled documents, as many of each part as the options say."""
        most = {"train": self.train_documents, "dev": self.test_documents, "test": self.test_documents}
        taken = {name: tuple(parts[name])[: most[name]] for name in most}
        tags = {tag for document in taken["train"] for _, _, tag in document.words}
        return TaggedText(**taken, tags=tuple(sorted(tags)), fingerprint=fingerprint)

    def files(self, data_dir: Path) -> dict[str, Path]:
        """Return the three files by part.

        Raises:
            FileNotFoundError: one is not there.
        """
        files = {part: data_dir / self.folder / f"{self.prefix}-{part}.conllu" for part in ("train", "dev", "test")}
        for path in files.values():
            if not path.is_file():
                raise FileNotFoundError(
                    f"no file {path.resolve()}: set data_dir=... or DATA_DIR to the folder that holds "
                    f"{self.folder}/, a treebank of https://universaldependencies.org"
                )
        return files


def documents(
    path: Path, column: str = "upos", *, relabelled: Callable[[Words], Words] | None = None
) -> Iterator[Document]:
    """Read the documents of a CoNLL-U file; one, if it marks none.

    Sentences are joined by a space, paragraphs by a line break.

    Args:
        path: the file.
        column: the column with the label of a word.
        relabelled: makes the labelled words of each sentence from those of the column; None to take these.

    Raises:
        ValueError: a line is not in UTF-8, does not have ten columns, or its id is none; or the file holds no sentence.
    """
    text, words = "", list[tuple[int, int, str]]()
    empty = True
    for comments, rows in _sentences(path):
        if any(comment.startswith("# newdoc") for comment in comments) and text:
            yield Document(text, tuple(words))
            text, words = "", []
        if text:
            text += "\n" if any(comment.startswith("# newpar") for comment in comments) else " "
        sentence, labelled = _surface(rows, _COLUMNS.index(column))
        labelled = labelled if relabelled is None else relabelled(labelled)
        words += [(len(text) + start, len(text) + end, tag) for start, end, tag in labelled]
        text += sentence
        empty = False
    if empty:
        raise ValueError(f"{path} holds no sentence: give a file in CoNLL-U")
    yield Document(text, tuple(words))


def sentences(path: Path, column: str = "upos") -> Iterator[Document]:
    """Read the sentences of a CoNLL-U file, each as a document of its own; errors as of `documents`."""
    for _, rows in _sentences(path):
        text, words = _surface(rows, _COLUMNS.index(column))
        yield Document(text, tuple(words))


def _sentences(path: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Read the comments and the rows of each sentence."""
    comments, rows = list[str](), list[list[str]]()
    for number, line in numbered_lines(path):
        if line.startswith("#") and not rows:
            comments.append(line)
        elif line.strip():
            row = line.split("\t")
            if len(row) != len(_COLUMNS):
                raise ValueError(
                    f"{path}, line {number} has {len(row)} columns, but CoNLL-U has ten, between tabulators"
                )
            if not re.fullmatch(_ID, row[0], re.ASCII):
                raise ValueError(f"{path}, line {number} has the id {row[0]!r}, but must have 1, 1-2 or 1.1")
            rows.append(row)
        elif rows:
            yield comments, rows
            comments, rows = [], []
    if rows:
        yield comments, rows


def _surface(rows: Iterable[list[str]], column: int) -> tuple[str, Words]:
    """Read the text of a sentence; return it with the characters and labels of its words."""
    text, words = "", list[tuple[int, int, str]]()
    last_inside, start = 0, 0  # the last word of a multiword token ("don't"), and where the next of its words starts
    for row in rows:
        number, form, label, misc = row[0], row[1], row[column], row[-1]
        space = "" if "SpaceAfter=No" in misc else " "
        if "." in number:  # an empty node: a word that is understood, and not written
            continue
        if "-" in number:
            last_inside, start = int(number.partition("-")[2]), len(text)
            text += form + space
        elif int(number) <= last_inside:
            # "don't" is written "do" + "n't"; a part that is spelled differently gets no characters.
            if text.startswith(form, start):
                words += [(start, start + len(form), label)]
                start += len(form)
        else:
            words += [(len(text), len(text) + len(form), label)]
            text += form + space
    return text.rstrip(" "), [(start, end, label) for start, end, label in words if label != "_"]
