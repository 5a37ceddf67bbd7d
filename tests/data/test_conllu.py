import os
from pathlib import Path

import pytest

from efface.data.conllu import Document, TaggedText, Treebank, documents

ROWS = """# newdoc id = a
# newpar id = a1
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\t_\t2\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t0\troot\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No
3.1\tthere\tthere\tADV\tRB\t_\t_\t_\t_\t_
4\t!\t!\tPUNCT\t.\t_\t3\tpunct\t_\t_

# newpar id = a2
1\tÉté\tété\tNOUN\tNN\t_\t0\troot\t_\t_
2\tx\tx\t_\t_\t_\t1\tdep\t_\t_

# newdoc id = b
1-2\tgotcha\t_\t_\t_\t_\t_\t_\t_\t_
1\tgot\tget\tVERB\tVBD\t_\t0\troot\t_\t_
2\tyou\tyou\tPRON\tPRP\t_\t1\tobj\t_\t_
"""


def test_documents_hold_text_and_words(tmp_path: Path) -> None:
    path = tmp_path / "x.conllu"
    path.write_text(ROWS, encoding="utf-8")
    first, second = documents(path)
    assert first.text == "Don't go!\nÉté x"
    assert [(first.text[i:j], tag) for i, j, tag in first.words] == [
        ("Do", "AUX"),
        ("n't", "PART"),
        ("go", "VERB"),
        ("!", "PUNCT"),
        ("Été", "NOUN"),
    ]
    assert second.text == "gotcha"
    assert [(second.text[i:j], tag) for i, j, tag in second.words] == [("got", "VERB")]
    other = next(documents(path, "deprel"))
    assert [tag for _, _, tag in other.words] == ["aux", "root", "root", "punct", "root", "dep"]


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "x.conllu"
    path.write_text("1\tgo\tVERB\n\n")
    with pytest.raises(ValueError, match="line 1 has 3 columns, but CoNLL-U has ten"):
        list(documents(path))
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        list(documents(path))
    with pytest.raises(ValueError, match="column is 'pos'"):
        Treebank(folder="x", prefix="y", column="pos")
    with pytest.raises(FileNotFoundError, match="DATA_DIR"):
        Treebank(folder="x", prefix="y").load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\n3\tgo", b"\nthree\tgo", r"line 6 has the id 'three', but must have 1, 1-2 or 1\.1"),
        (b"1-2\tDon't", b"1-\tDon't", "line 3 has the id '1-'"),
        (b"1-2\tDon't", b"1-2-3\tDon't", "line 3 has the id '1-2-3'"),
        (b"\n3.1\t", b"\n3.x\t", "line 7 has the id '3.x'"),
        ("É".encode(), b"\xc9", r"line 11 is not in UTF-8 \(.* at character 3\): save the file as UTF-8"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    """Covers faults B15, CoNLL-U."""
    path = tmp_path / "x.conllu"
    content = ROWS.encode()
    assert content.count(old)
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        list(documents(path))
    assert str(path) in str(error.value)


def test_line_ends_and_byte_order_mark_are_none_of_the_text(tmp_path: Path) -> None:
    plain, other = tmp_path / "x.conllu", tmp_path / "y.conllu"
    plain.write_bytes(ROWS.encode())
    other.write_bytes(b"\xef\xbb\xbf" + ROWS.replace("\n", "\r\n").encode())
    assert list(documents(other)) == list(documents(plain))


def test_parts_must_share_one_tag_set() -> None:
    known, other = Document("go", ((0, 2, "VERB"),)), Document("hm", ((0, 2, "INTJ"),))
    with pytest.raises(ValueError, match="test has the tags INTJ, which train lacks"):
        TaggedText((known,), (known,), (other,), ("VERB",), "")
    with pytest.raises(ValueError, match="dev has no labelled word"):
        TaggedText((known,), (Document("", ()),), (known,), ("VERB",), "")


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with the data sets")
def test_treebank_reads_as_it_was_written() -> None:
    root = Path(os.environ["DATA_DIR"])
    text = Treebank(folder="ud_english_ewt", prefix="en_ewt-ud").load(root)
    assert len(text.tags) == 17
    assert sum(len(document.words) for document in text.train) > 200_000
    whole = "\n".join(document.text for document in text.test)
    lines = (root / "ud_english_ewt/en_ewt-ud-test.conllu").read_text(encoding="utf-8").splitlines()
    sentences = [line.removeprefix("# text = ").rstrip() for line in lines if line.startswith("# text = ")]
    assert sum(sentence in whole for sentence in sentences) > 0.995 * len(sentences)
