"""UCI Adult: predict whether a person earns more than 50,000 dollars, with sex or race as the protected attribute.

It is encoded as any table is (`efface.data.table`), with the columns, the favourable label and the privileged groups of
AIF360's `AdultDataset` (which wants its files inside site-packages), so that AIF360's metrics and algorithms apply to
any split as it is: `split.aif360()`. Becker & Kohavi, "Adult", UCI Machine Learning Repository, 1996, CC BY 4.0.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from efface.data.base import Dataset, stratified_split
from efface.data.columns import Labels
from efface.data.download import download_folder
from efface.data.preprocessing import Column
from efface.data.table import encoded
from efface.data.text import numbered_lines
from efface.extras import require
from efface.options import Ge, options

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)
"""The columns of both files, in this order."""

NUMERIC = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
_VALUES = {
    "workclass": "Federal-gov Local-gov Never-worked Private Self-emp-inc Self-emp-not-inc State-gov Without-pay",
    "education": (
        "10th 11th 12th 1st-4th 5th-6th 7th-8th 9th Assoc-acdm Assoc-voc Bachelors Doctorate HS-grad Masters Preschool "
        "Prof-school Some-college"
    ),
    "marital-status": (
        "Divorced Married-AF-spouse Married-civ-spouse Married-spouse-absent Never-married Separated Widowed"
    ),
    "occupation": (
        "Adm-clerical Armed-Forces Craft-repair Exec-managerial Farming-fishing Handlers-cleaners Machine-op-inspct "
        "Other-service Priv-house-serv Prof-specialty Protective-serv Sales Tech-support Transport-moving"
    ),
    "relationship": "Husband Not-in-family Other-relative Own-child Unmarried Wife",
    "native-country": (
        "Cambodia Canada China Columbia Cuba Dominican-Republic Ecuador El-Salvador England France Germany Greece "
        "Guatemala Haiti Holand-Netherlands Honduras Hong Hungary India Iran Ireland Italy Jamaica Japan Laos Mexico "
        "Nicaragua Outlying-US(Guam-USVI-etc) Peru Philippines Poland Portugal Puerto-Rico Scotland South Taiwan "
        "Thailand Trinadad&Tobago United-States Vietnam Yugoslavia"
    ),
    "race": "Amer-Indian-Eskimo Asian-Pac-Islander Black Other White",
    "sex": "Female Male",
}
"""What the official files hold in each column of words, as they spell it."""
CATEGORICAL = tuple(_VALUES)[:-2]
LABEL = "income"
CLASSES = ("<=50K", ">50K")
"""The second is the favourable label."""
ATTRIBUTES = {"sex": ("Female", "Male"), "race": ("other", "White")}
"""The second value of each is the privileged group, as in AIF360."""
MISSING = "?"
COLUMN_KINDS = [
    Column(name, "indicator", ATTRIBUTES[name])
    if name in ATTRIBUTES
    else Column(name, "number" if name in NUMERIC else "category")
    for name in COLUMNS
    if name not in ("fnlwgt", LABEL)
]
"""How each column becomes numbers; `fnlwgt` is a sampling weight."""

_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
_SHA256 = {
    "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}


@options
class Adult:
    """Options of UCI Adult, read from `data_dir/adult`, or downloaded to it.

    train, val and pairs are parts of `adult.data`, test is `adult.test`. Of the 14 columns `fnlwgt` is left out, as in
    AIF360: it is a sampling weight. Numeric columns are standardised by train, categories are one-hot, sex and race are
    0 or 1.

    Args:
        attribute: `sex` (Female, Male) or `race` (other, White).
        missing: `drop` people with a missing value (7 %), or `impute` the most frequent value in train.
        min_rows: a category with fewer rows in train is merged with the other rare ones: a column with only a few
            distinct rows would let an eraser balance the means and leave the attribute readable elsewhere.
        n_val, n_pairs: people of `adult.data` in val and in pairs; the rest are train. Membership is fixed.
    """

    attribute: Literal["sex", "race"] = "sex"
    missing: Literal["drop", "impute"] = "drop"
    min_rows: Annotated[int, Ge(1)] = 100
    n_val: Annotated[int, Ge(1)] = 3_000
    n_pairs: Annotated[int, Ge(1)] = 2_000

    def fingerprint(self, data_dir: Path) -> str:
        require("pandas", "pooch", "sklearn", "skops", extra="adult", what="dataset=adult")
        digest = hashlib.sha256()
        for file in _files(data_dir):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Load the table, in about a second. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)
        people, official_test = self._people(data_dir)
        index = torch.from_numpy(people.index.to_numpy(copy=True))
        people = people.reset_index(drop=True)
        people["race"] = people["race"].where(people["race"] == ATTRIBUTES["race"][1], ATTRIBUTES["race"][0])
        codes = {LABEL: _codes(people[LABEL], CLASSES[1])}
        codes |= {name: _codes(people[name], values[1]) for name, values in ATTRIBUTES.items()}
        # Strata of both attributes: the same people whichever is protected.
        parts = self._parts(codes[LABEL] * 4 + codes["sex"] * 2 + codes["race"], official_test)
        labels = Labels(codes[LABEL], codes[self.attribute], CLASSES, ATTRIBUTES[self.attribute], None, parts)
        return encoded(
            people.replace(MISSING, None),
            COLUMN_KINDS,
            labels,
            index=index,
            target=LABEL,
            protected=[self.attribute],
            min_rows=self.min_rows,
            fingerprint=fingerprint,
            source="UCI Adult",
            indicators=list(ATTRIBUTES),
        )

    def _people(self, data_dir: Path) -> tuple["pd.DataFrame", np.ndarray]:
        """Read both files, without the people to drop; return the table, and a mask of the official test's rows."""
        import pandas as pd

        frames = [read(file) for file in _files(data_dir)]
        people = pd.concat(frames, ignore_index=True)
        official_test = people.index.to_numpy() >= len(frames[0])
        if self.missing == "drop":
            complete = ~(people == MISSING).any(axis=1).to_numpy()
            people, official_test = people[complete], official_test[complete]
        return people, official_test

    def _parts(self, strata: Tensor, official_test: np.ndarray) -> dict[str, Tensor]:
        """Deal the rows that are not the official test's out to train, val and pairs; return the rows of each split."""
        test = torch.from_numpy(np.flatnonzero(official_test))
        rest = torch.from_numpy(np.flatnonzero(~official_test))
        if self.n_val + self.n_pairs >= len(rest):
            raise ValueError(
                f"n_val={self.n_val} and n_pairs={self.n_pairs} leave no train of the {len(rest)} rows of adult.data"
            )
        sizes = {"train": len(rest) - self.n_val - self.n_pairs, "val": self.n_val, "pairs": self.n_pairs}
        parts = stratified_split(strata[rest], sizes, torch.Generator().manual_seed(0))
        return {name: rest[rows] for name, rows in parts.items()} | {"test": test}


def read(file: Path) -> "pd.DataFrame":
    """Read the rows of `adult.data` or `adult.test`, all columns, numbers as float64.

    Raises:
        ValueError: a line has another number of columns, or a value that its column cannot hold; file and line are
            named. Of a column of words, these are the values of the official files, and a missing one of the six that
            are one-hot: a column in the place of another would pass otherwise.
    """
    import pandas as pd

    lines, rows = [], []
    for number, line in numbered_lines(file):
        if not line.strip() or line.startswith("|"):  # adult.test opens with a remark
            continue
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(COLUMNS):
            raise ValueError(
                f"{file}, line {number}: {len(fields)} columns, but there must be {len(COLUMNS)}: {', '.join(COLUMNS)}"
            )
        fields[-1] = fields[-1].removesuffix(".")  # in adult.test only
        lines.append(number)
        rows.append(fields)
    if not rows:
        raise ValueError(f"{file} has no rows: delete it, so that it is downloaded again")
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)

    def require(name: str, good: "pd.Series[bool]", expected: str) -> None:
        if not good.all():
            i = int(np.flatnonzero(~good.to_numpy())[0])
            raise ValueError(f"{file}, line {lines[i]}: {name} is {frame[name].iloc[i]!r}, but must be {expected}")

    for name in (*NUMERIC, "fnlwgt"):
        numbers = pd.to_numeric(frame[name], errors="coerce").astype(np.float64)
        require(name, numbers.abs() < np.inf, "a number")
        frame[name] = numbers
    require(LABEL, frame[LABEL].isin(CLASSES), " or ".join(CLASSES))
    for name, words in _VALUES.items():
        values = [*words.split(), *([MISSING] if name in CATEGORICAL else [])]
        require(name, frame[name].isin(values), f"one of {', '.join(values)}")
    return frame


def _files(data_dir: Path) -> list[Path]:
    """Find adult.data and adult.test; download them, under their checksums, if they are not there."""
    folder = data_dir / "adult"
    missing = [name for name in _SHA256 if not (folder / name).is_file()]
    if missing and (data_dir / missing[0]).is_file():
        raise FileNotFoundError(
            f"{missing[0]} is in {data_dir.resolve()}, but is looked for in the folder adult of data_dir: "
            f"put it into {folder.resolve()}, or set data_dir to the folder above"
        )
    if missing:
        _download(missing, folder)
    return [folder / name for name in _SHA256]


def _download(names: list[str], folder: Path) -> None:
    """Download files into `folder`, after their checksums are compared.

    Raises:
        FileNotFoundError: the site cannot be reached, or a file is another.
    """
    import pooch

    try:
        with download_folder(folder) as temporary:
            for name in names:
                pooch.retrieve(_URL + name, known_hash=_SHA256[name], fname=name, path=temporary, progressbar=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no {' and no '.join(str(folder.resolve() / name) for name in names)}, nor could they be "
            f"downloaded from {_URL} ({error}). Put adult.data and adult.test there, or set data_dir=... (or DATA_DIR) "
            "to a folder with adult/ in it"
        ) from error


def _codes(values: "pd.Series[Any]", one: str) -> Tensor:
    return torch.from_numpy((values == one).to_numpy().astype(np.int64))
