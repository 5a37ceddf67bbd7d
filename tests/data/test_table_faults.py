"""dataset=table: files and columns that are refused, each by its name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.data.test_table import N, load, save

from efface.data.adult import COLUMNS

SOME = np.arange(N) % 7 == 3
DATES = pd.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d")
TEXT = [f"a remark on row {i // 2} of them all" for i in range(N)]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"income": ["no"] * N}, {"positive": None}, "target: column 'income' of .* holds only one value, no"),
        (
            {"income": np.arange(N)},
            {"positive": None},
            r"target: .* holds 600 different values, 0, 1, .*may hold 100: name one value with dataset.p",
        ),
        ({}, {"protected": ["income"]}, "the target is 'income' too: .* cannot be erased; name another column"),
        (
            {"weight": np.arange(N) / 7},
            {"protected": ["weight"]},
            "protected: column 'weight' .* 600 different values, .* but may hold 20: bin it",
        ),
        ({"sex": ["F"] * N}, {}, "protected: column 'sex' of .* holds only one value, F"),
        (
            {"since": DATES},
            {},
            r"drop: .*'since' holds dates or times, such as 2020-01-01\. Leave .*'dataset.drop=\[since\]'",
        ),
        ({"note": TEXT}, {}, "'note' is free text, 300 different values in 600 rows, such as 'a remark on row 0"),
        ({"pay": [f"${i % 300}" for i in range(N)]}, {}, "'pay' holds numbers as words, such as .0, .1.*write them as"),
        ({"pay": [f"{i % 300},5" for i in range(N)]}, {}, "'pay' holds numbers as words, such as 0,5"),
        (
            {"id": [f"x{i * 2 // 3}" for i in range(N)]},
            {},
            "'id' may be an identifier, 400 different values in 600 rows, such as x0, x1.*is named by dataset.people",
        ),
        ({"id": [f"x{i}" for i in range(N)]}, {}, "'id' is different in each row, as an identifier is, such as x0, x1"),
        ({"row": np.arange(N)}, {}, "'row' counts the rows"),
        ({"empty": [""] * N, "since": DATES}, {}, r"'empty' is empty; .*drop=\[empty,since\]"),
        ({"rate": np.where(SOME, np.inf, 1.5)}, {}, "'rate' holds inf in row 3"),
        ({"rate": np.where(SOME, 1e200, 1.5)}, {}, r"'rate' holds 1e\+200 in row 3"),
        (
            {"income": np.where(SOME, "", "<=50K")},
            {},
            "target: column 'income' .* has no value in 86 of 600 rows, the first of them row 3: leave those rows out",
        ),
        ({"sex": np.where(SOME, "?", "Male")}, {}, "protected: column 'sex' of .* has no value in 86 of 600"),
        ({}, {"target": "incone"}, "target: .* has no column 'incone': did you mean income"),
        ({}, {"drop": ["fnlwt"]}, "drop: .* has no column 'fnlwt': did you mean fnlwgt"),
        ({}, {"drop": ["sex"]}, "drop: 'sex' is in use"),
        ({}, {"people": "sex"}, "protected, people, split: sex is named twice"),
        ({}, {"positive": ">50"}, "positive is '>50', but .* holds no such value: did you mean >50K"),
        ({"part": "train"}, {"split": "part"}, "split: column 'part' of .* gives no row to test"),
        (
            {"part": ["train", "val", "tost"] * 200},
            {"split": "part"},
            "split: .* holds tost, but may only hold train, val",
        ),
        (
            {
                "income": np.where(np.arange(N) < 300, ">50K", "<=50K"),
                "part": ["train"] * 400 + ["val"] * 100 + ["test"] * 100,
            },
            {"split": "part"},
            r"split 'val' has no sample of class >50K \(of >50K, there are 300 in train, 0 in test\): give it some",
        ),
        (
            {"sex": np.where(np.arange(N) < 300, "F", "M"), "part": ["train"] * 300 + ["val"] * 150 + ["test"] * 150},
            {"split": "part"},
            "every sample of train in .* has the attribute 'F'",
        ),
        ({"sex": ["F", "M", "M "] * 200}, {}, "differ in blanks"),
        ({}, {"ratios": [0.5, 0.1, 0.1, 0.1]}, "ratios is .* that sum to 1"),
        ({}, {"separator": ";"}, r"separator: the first line of .* is one field, .*: set 'dataset\.separator=\",\"'$"),
        (
            {},
            {"drop": [name for name in COLUMNS if name not in ("income", "sex")], "protected_inputs": False},
            "has no column that is an input",
        ),
        ({"gap": [""] * N}, {"missing": "drop"}, "no row of .* has a value in every column"),
    ],
)
def test_bad_tables(tmp_path: Path, columns: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(save(tmp_path, **columns), **options)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path: there is no file .*none.csv nor .*none.csv\. Set dataset.path"):
        load("none.csv")
    with pytest.raises(ValueError, match=r"is none of \.csv, \.tsv, \.parquet, \.feather"):
        load(__file__)
    (tmp_path / "twice.csv").write_text("sex,age,sex\nF,1,F\nM,2,M\n")
    with pytest.raises(ValueError, match=r"twice\.csv has two columns of the name sex: rename one$"):
        load(tmp_path / "twice.csv")
    (tmp_path / "latin.csv").write_bytes("sex,income\nmännlich,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv cannot be read .*: save it anew, text in UTF-8"):
        load(tmp_path / "latin.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read"):
        load(tmp_path / "broken.parquet")
    (tmp_path / "empty.csv").write_text("sex,income\n")
    with pytest.raises(ValueError, match=r"empty\.csv has no rows"):
        load(tmp_path / "empty.csv")
    (tmp_path / "nothing.csv").write_text("")
    with pytest.raises(ValueError, match=r"nothing\.csv cannot be read"):
        load(tmp_path / "nothing.csv")
    columns = {"sex": ["F", "M"] * 20, "income": [0, 0, 1, 1] * 10, "born": pd.date_range("2020-01-01", periods=40)}
    pd.DataFrame(columns).to_parquet(tmp_path / "typed.parquet")
    with pytest.raises(ValueError, match="'born' holds dates or times, such as 2020-01-01"):
        load(tmp_path / "typed.parquet", positive=None, drop=[])
    pd.DataFrame({"a": [1], "b": [1]}).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"a": [1], "c": [1]}).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match=r"b.csv and .*a.csv have different columns, such as b, c"):
        load({"train": str(tmp_path / "a.csv"), "test": str(tmp_path / "b.csv")})


def test_column_of_lists_is_named(tmp_path: Path) -> None:
    frame = pd.read_csv(save(tmp_path)).assign(tags=[["a", "b"]] * N)
    frame.to_parquet(tmp_path / "people.parquet")
    with pytest.raises(ValueError, match=r"'tags' holds values of the type .*drop=.tags."):
        load(str(tmp_path / "people.parquet"))
    load(str(tmp_path / "people.parquet"), drop=["fnlwgt", "tags"])
