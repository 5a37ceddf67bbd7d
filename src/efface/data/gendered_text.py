"""Text whose words say the gender of the persons that are spoken of: a treebank and a list of gendered words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from efface.data.conllu import Document, TaggedText, Treebank, Words, documents, sentences
from efface.files import digest
from efface.options import options

Scope = Literal["prefix", "sentence", "word"]
GENDERS = ("male", "female")
"""In the order of a pair of the word list."""


@options
class GenderedTreebank(Treebank):
    """A treebank whose labels are the gender that a sentence speaks of; what it has in `column` is not read.

    A word of the list names its gender, in capitals or not. Where a sentence names both, nothing can be told, and words
    have no label. Names of persons are not in the list. Train holds the sentences that have labels, each as a text of
    its own, as the sentences of benchmarks are; dev and test hold whole documents.

    Args:
        words: a JSON file below the data directory, whose `gender` is a list of pairs of a male and a female word.
        scope: `prefix` labels each word of a sentence from the first gendered one on, as long as one gender was named,
            which is what a model that reads from the left can know. `sentence` labels all words of a sentence that
            names one gender, which is what a model that reads both sides can know. `word` labels gendered words alone.
    """

    words: str = "gender_words/bias_attribute_words.json"
    scope: Scope = "prefix"

    def fingerprint(self, data_dir: Path) -> str:
        return digest(super().fingerprint(data_dir).encode(), self._list(data_dir).read_bytes())

    def load(self, data_dir: Path) -> TaggedText:
        fingerprint = self.fingerprint(data_dir)
        genders = read_gendered_words(self._list(data_dir))

        def relabelled(sentence: Words) -> Words:
            return labelled_by_gender(sentence, genders, self.scope)

        files = self.files(data_dir)
        parts = {name: documents(files[name], "form", relabelled=relabelled) for name in ("dev", "test")}
        alone = (Document(s.text, tuple(relabelled(list(s.words)))) for s in sentences(files["train"], "form"))
        train = (sentence for sentence in alone if sentence.words)
        return self.text({"train": train, **parts}, fingerprint)

    def _list(self, data_dir: Path) -> Path:
        path = data_dir / self.words
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path.resolve()}: words must name a list of gendered words below data_dir"
            )
        return path


def read_gendered_words(path: Path) -> dict[str, str]:
    """Return the gender of each word of a list, in small letters.

    Raises:
        ValueError: the file is no such list, or has a word under both genders.
    """
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))["gender"]
        columns = list(zip(*[(male.lower(), female.lower()) for male, female in pairs], strict=True))
        genders = {word: gender for gender, words in zip(GENDERS, columns, strict=True) for word in words}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no list of gendered words: give JSON with 'gender', a list of pairs [male word, female word]"
        ) from error
    both = sorted(set(columns[0]) & set(columns[1]))
    if both:
        raise ValueError(f"{path} has {', '.join(both)} under both genders: a word must tell one")
    return genders


def labelled_by_gender(sentence: Words, genders: Mapping[str, str], scope: Scope) -> Words:
    """Return the words of a sentence that have a gender, with it; see `GenderedTreebank`.

    Args:
        sentence: its words, with their forms for labels.
        genders: gender of each gendered word, in small letters.
        scope: which words are labelled.
    """
    by_word = [(start, end, genders.get(form.lower())) for start, end, form in sentence]
    if scope == "word":
        return [(start, end, gender) for start, end, gender in by_word if gender is not None]
    named: set[str] = set() if scope == "prefix" else {gender for _, _, gender in by_word if gender is not None}
    labelled: Words = []
    for start, end, gender in by_word:
        if gender is not None:
            named.add(gender)
        if len(named) == 1:
            labelled.append((start, end, next(iter(named))))
    return labelled
