import os
from collections import Counter
from pathlib import Path

import pytest

from efface.data.crows_pairs import CATEGORIES, SentencePair, read_pairs

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"


def test_pairs_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(HEADER + '0,"She, a nurse, is kind. ",He is kind.,stereo,gender,[]\n1,b,a,antistereo,age,[]\n')
    assert read_pairs(path) == (
        SentencePair("She, a nurse, is kind.", "He is kind.", "gender"),
        SentencePair("b", "a", "age"),  # of an antistereotype too, sent_more speaks of the disadvantaged group
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence1,sentence2\na,b\n", "has the columns sentence1, sentence2, but pairs need sent_more, sent_less, b"),
        ("sent_more;sent_less;bias_type\n", "has the columns sent_more;sent_less;bias_type, but pairs need"),
        ("", "has the columns none, but pairs need"),
        (HEADER, "holds no pair"),
        (HEADER + "0,a,,stereo,gender,[]\n", "line 2: a sentence is empty"),
        (HEADER + "0,a\n", "line 2: a sentence is empty"),
    ],
)
def test_another_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(path)
    with pytest.raises(FileNotFoundError, match=r"no file .*: give the csv of CrowS-Pairs"):
        read_pairs(tmp_path / "none.csv")


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with the data sets")
def test_the_published_file() -> None:
    pairs = read_pairs(Path(os.environ["DATA_DIR"]) / "crows_pairs" / "crows_pairs_anonymized.csv")
    counts = Counter(pair.category for pair in pairs)
    assert counts.keys() == set(CATEGORIES)
    assert (len(pairs), counts["gender"], counts["race-color"]) == (1508, 262, 516)  # table 1 of the paper
