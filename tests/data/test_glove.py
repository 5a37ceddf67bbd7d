import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data import glove_files

from efface.data.base import Dataset
from efface.data.glove import Glove
from efface.data.vector_file import read_vectors
from efface.data.vocabulary import Vocabulary


def load(folder: Path, **options: object) -> Dataset:
    source = Glove(**{"vocabulary": 400, "words": 100, **options})  # type: ignore[arg-type]
    return source.load(data_dir=folder, cache_dir=folder / "cache", seed=0)


def test_words_at_either_end_are_dealt_out(tmp_path: Path) -> None:
    data = load(glove_files.write(tmp_path))
    splits = (data.train, data.val, data.pairs.split, data.test)
    assert [len(split) for split in splits] == [98, 30, 12, 60]
    index, a, y = (torch.cat([getattr(split, name) for split in splits]) for name in ("index", "a", "y"))
    assert len(index.unique()) == 200
    assert a.sum() == y.sum() == 100
    known = glove_files.vectors()
    x = np.stack(list(known.values()))
    gender = known["he"] - known["she"]
    cosine = torch.from_numpy(x @ gender / np.linalg.norm(x, axis=1))
    assert cosine[index[a == 1]].min() >= cosine.sort().values[300]
    assert cosine[index[a == 0]].max() <= cosine.sort().values[99]
    assert index[y == 1].max() < index[y == 0].min()  # the more frequent half
    rows = torch.arange(5)
    np.testing.assert_allclose(data.test.inputs(rows), x[data.test.index[rows]], rtol=1e-5)
    assert data.vocabulary is not None
    assert data.vocabulary.row("John") == data.vocabulary.row("john") == 2
    assert data.vocabulary.rows(["nobody", "he"]) == [0]
    assert data.attributes == ("female", "male")
    assert data.input_shape == (6,)


def test_second_load_is_from_the_cache_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = glove_files.write(tmp_path)
    first = load(folder)
    monkeypatch.setattr("efface.data.vector_file.read_vectors", None)
    again = load(folder)
    assert isinstance(first.vocabulary, Vocabulary)
    assert again.vocabulary is not None
    assert first.vocabulary.words == again.vocabulary.words
    assert torch.equal(first.test.index, again.test.index)
    assert torch.equal(first.test.inputs(torch.arange(60)), again.test.inputs(torch.arange(60)))


def test_plain_text_is_read_as_gzip_is_and_no_further_than_asked(tmp_path: Path) -> None:
    text = "\n".join(glove_files.lines(glove_files.vectors(50)))
    (tmp_path / "v.txt").write_text(text)
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = (read_vectors(tmp_path / name, most=1000) for name in ("v.txt", "v.txt.gz"))
    assert plain[0] == packed[0] == list(glove_files.vectors(50))
    assert np.array_equal(plain[1], packed[1])
    assert len(read_vectors(tmp_path / "v.txt", most=7)[0]) == 7


def test_words_may_hold_blanks_and_signs_that_end_lines_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("the 1 2\n. . 3 4\nat name@domain.com 5 6\na\x85b\u2028c 7 8\n5 9 10\n")
    words, x = read_vectors(path, most=10)
    assert words == ["the", ". .", "at name@domain.com", "a\x85b\u2028c", "5"]
    assert x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


MANY = gzip.compress(b"\n".join(b"w%d 1 2" % i for i in range(1000)), mtime=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a 1 2 3\nb 1 2\n", r"v.txt, line 2 has 3 entries, of which the last 3 should be numbers as on line 1"),
        (b"a 1 2 3\nb 1 x 3\n", r"v.txt, line 2 has 4 entries"),
        (b"a 1 2\n\nb 1 2\n", r"v.txt, line 2 has 0 entries"),
        (b"a 1 2\nb nan 2\n", r"v.txt, line 2 holds nan: all numbers must be finite"),
        (b"a 1 2\nb 1 2\na 3 4\n", r"v.txt, line 3 repeats the word 'a' of line 1: delete one"),
        (b"400000 50\na 1 2\n", r"v.txt, line 1 has 2 entries, .* as word2vec writes it, has to be deleted"),
        (b"a 1 2\n\xff 1 2\n", r"v.txt, line 2 is not in UTF-8"),
        (b"", "is empty"),
        (b"PK\x03\x04", "is a zip archive: unpack it"),
        (MANY[:-9], r"v.txt, line \d+ is cut short or damaged"),
        (MANY[:-6] + b"\0" * 6, r"v.txt, line \d+ is cut short or damaged"),
    ],
    ids=["short", "word", "blank", "nan", "twice", "header", "bytes", "empty", "zip", "cut", "checksum"],
)
def test_bad_files_are_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "v.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_vectors(tmp_path / "v.txt", most=10_000)


def test_a_missing_file_says_where_glove_is_published(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nlp.stanford.edu/projects/glove/, .*PDDL 1.0"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": 300}, "words is 300, but twice as many must be at most vocabulary=400"),
        ({"words": 250, "vocabulary": 600}, "words is 250, but .* has 400 words, fewer than twice as many"),
        ({"words": 200}, r"words is 200, but \d+ words of .* are nearer to she and \d+ to he: ask for fewer"),
        ({"ends": ["woman", "he"]}, "has no woman among its first 400 words"),
        ({"ratios": [0.5, 0.1, 0.1, 0.1]}, "that sum to 1"),
        ({"ends": ["she"]}, "ends is"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, object], message: str) -> None:
    glove_files.write(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **options)


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with the data sets")
def test_real_vectors_have_the_sizes_of_the_paper(tmp_path: Path) -> None:
    data = Glove().load(data_dir=Path(os.environ["DATA_DIR"]), cache_dir=tmp_path, seed=0)
    assert [len(split) for split in (data.train, data.val, data.pairs.split, data.test)] == [7350, 2250, 900, 4500]
    assert data.vocabulary is not None
    words = {data.vocabulary.words[row]: int(a) for row, a in zip(data.train.index, data.train.a, strict=True)}
    assert sum(words.values()) == 3675
    assert {words[word] for word in ("linebacker", "quarterback", "colonel") if word in words} <= {1}
    assert {words[word] for word in ("actress", "princess", "ballerina", "diva") if word in words} <= {0}
