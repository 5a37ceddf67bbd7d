"""UCI Adult: does a person earn more than 50,000 dollars, with sex or race as the protected attribute.

The table goes through AIF360's `StandardDataset`, with the columns, the favourable label and the privileged groups of
AIF360's own `AdultDataset` (which wants its files inside site-packages), so that AIF360's metrics and algorithms apply
to any split as it is: `split.aif360()`. Becker & Kohavi, "Adult", UCI Machine Learning Repository, 1996, CC BY 4.0.
"""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from efface.data.base import Dataset, Split, flip_pairs, require_every_class, stratified_split
from efface.extras import require

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)
"""Of both files, in this order."""

NUMERIC = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORICAL = ("workclass", "education", "marital-status", "occupation", "relationship", "native-country")
LABEL = "income"
CLASSES = ("<=50K", ">50K")
"""The second is the favourable label."""
ATTRIBUTES = {"sex": ("Female", "Male"), "race": ("other", "White")}
"""The second value of each is the privileged group, as in AIF360."""
MISSING, MERGED = "?", "(rare)"

_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
_SHA256 = {
    "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}


@dataclass(frozen=True)
class AdultSplit:
    """People of one split, as rows of the encoded table."""

    index: Tensor
    y: Tensor
    a: Tensor
    x: Tensor
    """`[n, d]` float32, see `columns`."""
    columns: tuple[str, ...]
    attribute_column: int
    """The column of x that is the attribute: 0 or 1."""
    table: Any
    """AIF360's `StandardDataset` of all splits, features encoded as in x."""
    rows: Tensor
    """`[n]`: rows of `table`."""
    cluster: Tensor | None = None

    def inputs(self, rows: Tensor, *, a: Tensor | None = None, device: str | torch.device = "cpu") -> Tensor:
        """`[len(rows), d]`; with `a`, the same people with that attribute and all else as it is.

        A husband whose sex is changed stays a husband.
        """
        x = self.x[rows]
        if a is not None:
            x[:, self.attribute_column] = a.to(x.dtype)
        return x.to(device)

    def aif360(self) -> Any:
        """The split as AIF360's `BinaryLabelDataset`: features x, labels y, both protected attributes, weights 1."""
        return self.table.subset(self.rows.numpy())

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, kw_only=True)
class Adult:
    """Options of UCI Adult, read from `data_dir/adult`, or downloaded to it.

    train, val and pairs are parts of `adult.data`, test is `adult.test`. Of the 14 columns `fnlwgt` is left out, as in
    AIF360: it is a sampling weight. Numeric columns are standardised by train, categories are one-hot, sex and race are
    0 or 1.

    Args:
        attribute: `sex` (Female, Male) or `race` (other, White).
        missing: `drop` people with a missing value (7 %), or `impute` the most frequent value in train.
        min_rows: a category with fewer rows in train is merged with the other rare ones, so that no column is so rare
            that it carries the attribute past an eraser.
        n_val, n_pairs: people of `adult.data` in val and in pairs; the rest are train. Membership is fixed.
    """

    attribute: str = "sex"
    missing: Literal["drop", "impute"] = "drop"
    min_rows: int = 100
    n_val: int = 3_000
    n_pairs: int = 2_000

    def __post_init__(self) -> None:
        if self.attribute == LABEL:
            raise ValueError(f"attribute is {LABEL!r}, which is the target: choose {' or '.join(ATTRIBUTES)}")
        if self.attribute not in ATTRIBUTES:
            close = difflib.get_close_matches(str(self.attribute), ATTRIBUTES, n=1, cutoff=0.4)
            meant = f": did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"attribute is {self.attribute!r}, but must be {' or '.join(ATTRIBUTES)}{meant}")
        if self.missing not in ("drop", "impute"):
            raise ValueError(f"missing is {self.missing!r}, but must be 'drop' or 'impute'")
        if self.min_rows < 1 or self.n_val < 1 or self.n_pairs < 1:
            raise ValueError(
                f"min_rows={self.min_rows}, n_val={self.n_val}, n_pairs={self.n_pairs}: each must be at least 1"
            )

    def fingerprint(self, data_dir: Path) -> str:
        require("aif360", "pandas", "pooch", extra="adult", what="dataset=adult")
        digest = hashlib.sha256()
        for file in _files(data_dir):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """About a second; `seed` changes nothing."""
        import pandas as pd

        fingerprint = self.fingerprint(data_dir)
        frames = [read(file) for file in _files(data_dir)]
        people = pd.concat(frames, ignore_index=True)
        official_test = people.index.to_numpy() >= len(frames[0])
        if self.missing == "drop":
            whole = ~(people == MISSING).any(axis=1).to_numpy()
            people, official_test = people[whole], official_test[whole]
        index = torch.from_numpy(people.index.to_numpy(copy=True))

        codes = {LABEL: _codes(people[LABEL], CLASSES[1])}
        codes |= {name: _codes(people[name], values[1]) for name, values in ATTRIBUTES.items()}
        test = torch.from_numpy(np.flatnonzero(official_test))
        rest = torch.from_numpy(np.flatnonzero(~official_test))
        if self.n_val + self.n_pairs >= len(rest):
            raise ValueError(
                f"n_val={self.n_val} and n_pairs={self.n_pairs} leave no train of the {len(rest)} rows of adult.data"
            )
        # Strata of both attributes: the same people whichever is protected.
        strata = (codes[LABEL] * 4 + codes["sex"] * 2 + codes["race"])[rest]
        sizes = {"train": len(rest) - self.n_val - self.n_pairs, "val": self.n_val, "pairs": self.n_pairs}
        parts = stratified_split(strata, sizes, torch.Generator().manual_seed(0))
        parts = {name: rest[rows] for name, rows in parts.items()} | {"test": test}

        table = _encode(people, parts["train"].numpy(), self.min_rows)
        x = torch.from_numpy(table.features).to(torch.float32)
        columns = tuple(table.feature_names)
        splits: dict[str, Split] = {
            name: AdultSplit(
                index=index[rows], y=codes[LABEL][rows], a=codes[self.attribute][rows], x=x[rows], columns=columns,
                attribute_column=columns.index(self.attribute), table=table, rows=rows,
            )
            for name, rows in parts.items()
        }  # fmt: skip
        require_every_class(splits, CLASSES)
        generator = torch.Generator().manual_seed(0)
        pairs = {name: flip_pairs(splits[name], 2, generator) for name in ("val", "pairs", "test")}
        return Dataset(
            train=splits["train"], val=splits["val"], pairs=pairs["pairs"], test=splits["test"],
            val_pairs=pairs["val"], test_pairs=pairs["test"],
            classes=CLASSES, attributes=ATTRIBUTES[self.attribute], input_shape=(len(columns),), flippable=True,
            fingerprint=fingerprint, attribute_columns=(columns.index(self.attribute),),
        )  # fmt: skip


def read(file: Path) -> "pd.DataFrame":
    """The rows of `adult.data` or `adult.test`, all columns, numbers as float64.

    Raises:
        ValueError: a line has another number of columns, or a value that its column cannot hold; file and line are
            named.
    """
    import pandas as pd

    lines, rows = [], []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
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
            at = int(np.flatnonzero(~good.to_numpy())[0])
            raise ValueError(f"{file}, line {lines[at]}: {name} is {frame[name].iloc[at]!r}, but must be {expected}")

    for name in (*NUMERIC, "fnlwgt"):
        numbers = pd.to_numeric(frame[name], errors="coerce")
        require(name, numbers.notna(), "a number")
        frame[name] = numbers.astype(np.float64)
    require(LABEL, frame[LABEL].isin(CLASSES), " or ".join(CLASSES))
    require("sex", frame["sex"].isin(ATTRIBUTES["sex"]), " or ".join(ATTRIBUTES["sex"]))
    return frame


def _files(data_dir: Path) -> list[Path]:
    """adult.data and adult.test, downloaded under their checksums if they are not there."""
    folder = data_dir / "adult"
    missing = [name for name in _SHA256 if not (folder / name).is_file()]
    if missing and (data_dir / missing[0]).is_file():
        raise FileNotFoundError(
            f"{missing[0]} is in {data_dir.resolve()}, but is looked for in the folder adult of data_dir: "
            f"put it into {folder.resolve()}, or set data_dir to the folder above"
        )
    for name in missing:
        import pooch

        try:  # to a temporary name, checked, then renamed
            pooch.retrieve(_URL + name, known_hash=_SHA256[name], fname=name, path=folder, progressbar=False)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{name} is neither in {folder.resolve()} nor could it be downloaded from {_URL} ({error}). "
                "Put adult.data and adult.test there, or set data_dir=... (or DATA_DIR) to a folder with adult/ in it"
            ) from error
    return [folder / name for name in _SHA256]


def _codes(values: "pd.Series[Any]", one: str) -> Tensor:
    return torch.from_numpy((values == one).to_numpy().astype(np.int64))


def _encode(people: "pd.DataFrame", train: np.ndarray, min_rows: int) -> Any:
    """AIF360's data set of the table: numbers standardised and categories one-hot, as rows `train` have them."""
    import pandas as pd
    from aif360.datasets import StandardDataset

    people = people.drop(columns="fnlwgt")
    for name in NUMERIC:
        mean, std = people[name].iloc[train].mean(), people[name].iloc[train].std(ddof=0)
        people[name] = (people[name] - mean) / (std or 1.0)
    for name in CATEGORICAL:
        people[name] = _merged(people[name], train, min_rows)

    def is_(value: str) -> Callable[[str], float]:
        return lambda other: float(other == value)

    # Functions, not lists of values: AIF360 compares lists in a way that pandas 3 refuses on text columns.
    return StandardDataset(
        df=pd.DataFrame(people), label_name=LABEL, favorable_classes=is_(CLASSES[1]),
        protected_attribute_names=list(ATTRIBUTES), privileged_classes=[is_(v[1]) for v in ATTRIBUTES.values()],
        categorical_features=list(CATEGORICAL),
        metadata={
            "label_maps": [{1.0: CLASSES[1], 0.0: CLASSES[0]}],
            "protected_attribute_maps": [{1.0: v[1], 0.0: v[0]} for v in ATTRIBUTES.values()],
        },
    )  # fmt: skip


def _merged(values: "pd.Series[str]", train: np.ndarray, min_rows: int) -> "pd.Series[Any]":
    """A categorical column without missing values, each of whose categories has `min_rows` rows in train.

    Missing values become the most frequent one. Rare categories become `MERGED`, and with them the next rarest if they
    are too few together; one that train lacks goes there too, or to the most frequent category if nothing was merged.
    """
    import pandas as pd

    counts = values.iloc[train][values.iloc[train] != MISSING].value_counts()
    counts = counts.sort_index().sort_values(kind="stable")  # from rare to frequent, ties by name
    before = counts.cumsum() - counts
    rare = list(counts.index[(counts < min_rows) | ((before > 0) & (before < min_rows))])
    kept = [name for name in sorted(counts.index) if name not in rare]
    most = counts.index[-1]
    new = values.where(values != MISSING, most)
    new = new.where(new.isin(kept), MERGED if rare else most)
    return pd.Series(pd.Categorical(new, categories=[*kept, *([MERGED] if rare else [])]), index=values.index)
