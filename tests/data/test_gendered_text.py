import json
from pathlib import Path
from typing import Any

import pytest

from efface.data.gendered_text import GenderedTreebank, Scope, labelled_by_gender, read_gendered_words

GENDERS = {"he": "male", "him": "male", "king": "male", "she": "female", "her": "female", "queen": "female"}


def words(sentence: str) -> list[tuple[int, int, str]]:
    spans, start = [], 0
    for word in sentence.split():
        spans.append((start, start + len(word), word))
        start += len(word) + 1
    return spans


@pytest.mark.parametrize(
    ("scope", "sentence", "labels"),
    [
        ("prefix", "then She saw the dog", [None, "female", "female", "female", "female"]),
        ("sentence", "then She saw the dog", ["female"] * 5),
        ("word", "then She saw the dog", [None, "female", None, None, None]),
        # Where both were named, nothing can be told.
        ("prefix", "he saw her there", ["male", "male", None, None]),
        ("sentence", "he saw her there", [None] * 4),
        ("word", "he saw her there", ["male", None, "female", None]),
        ("prefix", "the dog barks", [None] * 3),
        ("sentence", "the dog barks", [None] * 3),
    ],
)
def test_labels_of_a_sentence(scope: Scope, sentence: str, labels: list[str | None]) -> None:
    spans = words(sentence)
    wanted = [(start, end, label) for (start, end, _), label in zip(spans, labels, strict=True) if label]
    assert labelled_by_gender(spans, GENDERS, scope) == wanted


def conllu(*sentences: str) -> str:
    rows = [
        "\n".join(f"{i}\t{word}\t_\tX\t_\t_\t_\t_\t_\t_" for i, word in enumerate(sentence.split(), 1))
        for sentence in sentences
    ]
    return "# newdoc\n" + "\n\n".join(rows) + "\n\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "dev", "test"):
        (tmp_path / f"small-{part}.conllu").write_text(conllu("a dog barks", "the king came", "she saw it"))
    (tmp_path / "words.json").write_text(json.dumps({"gender": [["he", "she"], ["King", "Queen"]]}))
    return tmp_path


def test_train_holds_labelled_sentences_and_test_whole_documents(folder: Path) -> None:
    text = GenderedTreebank(folder=".", prefix="small", words="words.json").load(folder)
    assert text.tags == ("female", "male")
    assert [document.text for document in text.train] == ["the king came", "she saw it"]
    assert text.train[0].words == ((4, 8, "male"), (9, 13, "male"))
    (document,) = text.test
    assert document.text == "a dog barks the king came she saw it"
    assert [document.text[start:end] for start, end, _ in document.words] == ["king", "came", "she", "saw", "it"]


def test_the_fingerprint_is_that_of_the_list_too(folder: Path) -> None:
    source = GenderedTreebank(folder=".", prefix="small", words="words.json")
    before = source.fingerprint(folder)
    (folder / "words.json").write_text(json.dumps({"gender": [["he", "she"]]}))
    assert source.fingerprint(folder) != before


def test_a_gender_that_train_does_not_name_is_refused(folder: Path) -> None:
    (folder / "small-train.conllu").write_text(conllu("she saw it"))
    with pytest.raises(ValueError, match="dev has the tags male, which train lacks"):
        GenderedTreebank(folder=".", prefix="small", words="words.json").load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"race": []}, "is no list of gendered words: give JSON with 'gender'"),
        ({"gender": [["he"]]}, "is no list of gendered words"),
        ({"gender": [["he", 1]]}, "is no list of gendered words"),
        ({"gender": [["he", "she"], ["she", "her"]]}, "has she under both genders"),
    ],
)
def test_another_list_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_gendered_words(path)
