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
        ("Do", "AUX"), ("n't", "PART"), ("go", "VERB"), ("!", "PUNCT"), ("Été", "NOUN"),
    ]  # fmt: skip
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
