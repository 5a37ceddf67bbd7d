import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from efface.data.stereoset import Example, read_stereoset

INTRA = {
    "id": "1",
    "target": "nurse",
    "bias_type": "gender",
    "context": "The nurse is BLANK. ",
    "sentences": [
        {"sentence": "The nurse is he.", "gold_label": "anti-stereotype"},
        {"sentence": "The nurse is fox.", "gold_label": "unrelated"},
        {"sentence": "The nurse is she.", "gold_label": "stereotype"},
    ],
}
INTER = {**INTRA, "context": "The nurse came.", "target": "a nurse"}


def written(folder: Path, intra: Any, inter: Any = (INTER,)) -> Path:
    (folder / "dev_intrasentence.json").write_text(intra if isinstance(intra, str) else json.dumps(intra))
    with gzip.open(folder / "dev_intersentence.json.gz", "wt") as file:
        json.dump(inter, file)
    return folder


def test_both_tasks_are_read_plain_or_gzipped(tmp_path: Path) -> None:
    sentences = ("The nurse is she.", "The nurse is he.", "The nurse is fox.")
    assert read_stereoset(written(tmp_path, [INTRA]), "dev") == (
        Example("intrasentence", "gender", "nurse", "The nurse is BLANK.", sentences),
        Example("intersentence", "gender", "a nurse", "The nurse came.", sentences),
    )
    with pytest.raises(FileNotFoundError, match=r"no file test_intrasentence\.json or test_intrasentence\.json\.gz in"):
        read_stereoset(tmp_path, "test")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("not json", "cannot be read as JSON"),
        ({"data": []}, "must hold a list of examples"),
        ([], "must hold a list of examples"),
        ([INTRA, {"context": "a"}], "example 2 is not in StereoSet's format"),
        ([{**INTRA, "sentences": INTRA["sentences"][:2]}], "KeyError: 'stereotype'"),
        ([{**INTRA, "context": "The nurse."}], "example 1: the context must hold BLANK"),
    ],
)
def test_another_file_is_named(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_stereoset(written(tmp_path, rows), "dev")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, [INTRA]) / "dev_intersentence.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"dev_intersentence\.json\.gz cannot be read as JSON"):
        read_stereoset(tmp_path, "dev")


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with the data sets")
def test_the_published_files() -> None:
    folder = Path(os.environ["DATA_DIR"]) / "stereoset"
    dev, test = (Counter(row.task for row in read_stereoset(folder, part)) for part in ("dev", "test"))  # type: ignore[arg-type]
    assert dev == {"intrasentence": 2106, "intersentence": 2123}
    assert test == {"intrasentence": 6392, "intersentence": 6374}
