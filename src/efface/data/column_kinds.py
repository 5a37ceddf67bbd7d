"""Which column of a table is a number, an indicator or a category, and which is none of them and has to be dropped."""

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from efface.data.preprocessing import Column, merge_rare, plain
from efface.data.text import some

if TYPE_CHECKING:
    import pandas as pd

_DATE = re.compile(r"(\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)")
_NUMBER = re.compile(r"[^\w\s]?\s?\d[\d.,' ]*[^\w\s]?")
"""A number with what a person writes around it."""
_FEW = 20
"""Values that a column of words may have without being an identifier or text."""
_IDENTIFIER = re.compile(
    r"(.*[^a-z])?(id|ids|uid|uuid|guid|key|nr|no|num|number|identifier)"
    r"|customer|client|patient|person|user|account|member|employee|student|subject"
)
"""Names that columns of identifiers have, in small letters."""
_LARGEST = 1e150
"""Largest number whose square fits into float64."""


def column_kinds(
    frame: "pd.DataFrame", train: np.ndarray, *, protected: Sequence[str], min_rows: int, source: object
) -> list[Column]:
    """Return how each column of a table becomes numbers.

    Numbers of 0 and 1 alone, booleans, and words of two values are indicators, other words categories. A protected
    column keeps all of its values, so that each row can be shown under each of them.

    Args:
        frame: all rows, of the columns that are to be inputs.
        train: positions of the rows of train.
        protected: columns among them that are protected.
        min_rows: of a category, see `fit_preprocessing`.
        source: of the table, for messages.

    Warns of a column that may be an identifier of which each value has several rows.

    Raises:
        ValueError: columns are dates, free text, identifiers, empty or infinite; each is named, with what to do.
    """
    inputs = [name for name in frame.columns if name not in protected]
    refused = [f"{name!r} {reason}" for name in inputs if (reason := _refusal(frame[name], train))]
    if refused:
        names = ",".join(name for name in inputs if _refusal(frame[name], train))
        raise ValueError(
            f"drop: {source} has columns that cannot be inputs as they are: {'; '.join(refused)}. Leave them out with "
            f"'dataset.drop=[{names}]', or replace them by numbers or a few categories; a column of identities, whose "
            "rows belong together, is named by dataset.people"
        )
    for name in inputs:
        _warn_of_identifier(frame[name], source)
    table = plain(frame)
    kinds = []
    for name in frame.columns:
        if name in protected:
            kinds.append(_protected(table[name]))
        elif table[name].dtype == np.float64:
            values = set(table[name].iloc[train].dropna().unique().tolist())
            kinds.append(Column(name, "indicator", (0.0, 1.0)) if values == {0.0, 1.0} else Column(name, "number"))
        else:
            kinds.append(_words(table[name].iloc[train], min_rows))
    return kinds


def _protected(column: "pd.Series[Any]") -> Column:
    values = sorted(column.unique().tolist(), key=_order)
    return Column(str(column.name), "indicator" if len(values) == 2 else "category", tuple(values))


def _words(column: "pd.Series[Any]", min_rows: int) -> Column:
    """Return the kind of a column of words: two frequent values make an indicator."""
    frequent, merged = merge_rare(column, min_rows)
    if len(frequent) == 2 and not merged:
        return Column(str(column.name), "indicator", tuple(sorted(frequent, key=_order)))
    return Column(str(column.name), "category")


def _order(value: Any) -> tuple[Any, Any]:
    """Numbers by size, words by the alphabet."""
    return (value.casefold(), value) if isinstance(value, str) else (value, value)


def _refusal(column: "pd.Series[Any]", train: np.ndarray) -> str | None:
    """Say why a column can be no input; None if it can."""
    from pandas.api.types import infer_dtype, is_numeric_dtype

    values = column.dropna()
    if not len(values):
        return "is empty"
    if column.iloc[train].isna().all():
        return "has no value in train"
    kind = infer_dtype(values, skipna=True)
    if kind.startswith(("date", "time", "period", "interval")):
        return f"holds dates or times, such as {values.iloc[0]}"
    if is_numeric_dtype(column) or kind in ("boolean", "decimal"):
        return _number_refusal(column)
    if kind not in ("string", "categorical", "integer", "floating", "mixed-integer"):
        return f"holds values of the type {type(values.iloc[0]).__name__}"
    return next(_word_refusals([str(value) for value in values]), None)


def _number_refusal(column: "pd.Series[Any]") -> str | None:
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.flatnonzero(np.isinf(numbers) | (np.abs(numbers) > _LARGEST))
    if len(infinite):
        return f"holds {numbers[infinite[0]]:g} in row {infinite[0]}, where numbers up to {_LARGEST:g} can be taken"
    if len(numbers) > _FEW and (np.diff(numbers) == 1).all():
        return "counts the rows"
    return None


def _word_refusals(words: list[str]) -> Iterator[str]:
    examples = list(dict.fromkeys(words))
    different = len(examples)
    if all(_DATE.fullmatch(word.strip()) for word in words):
        yield f"holds dates or times, such as {words[0]}"
    if different > _FEW and different == len(words):
        yield f"is different in each row, as an identifier is, such as {some(examples, 2)}"
    if different > _FEW and all(_NUMBER.fullmatch(word.strip()) for word in words):
        yield f"holds numbers as words, such as {some(examples, 2)}, which would be categories: write them as 1234.5"
    length = np.mean([len(word.split()) for word in words])
    if different > _FEW and 2 * different > len(words) and length <= 2:
        values = f"{different:,} different values in {len(words):,} rows, such as {some(examples, 2)}"
        yield f"may be an identifier, {values}"
    if different > _FEW and (2 * different > len(words) or (10 * different > len(words) and length > 3)):
        yield f"is free text, {different:,} different values in {len(words):,} rows, such as {words[0][:40]!r}"


def _warn_of_identifier(column: "pd.Series[Any]", source: object) -> None:
    """Warn of words with ten rows or fewer for each, and of such whole numbers under an identifier's name.

    Nothing but its name tells a customer's number from an amount.
    """
    from pandas.api.types import is_numeric_dtype

    values = column.dropna()
    different = values.nunique()
    if different <= _FEW or 10 * different <= len(values):
        return
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(column.name)).lower()
    if is_numeric_dtype(column) and not (_IDENTIFIER.fullmatch(name) and (values % 1 == 0).all()):
        return
    warnings.warn(
        f"{source}: column {column.name!r} may be an identifier, {different:,} different values in {len(values):,} "
        f"rows. If the rows of one value belong together, name it by 'dataset.people={column.name}', so that they are "
        f"never in two splits; otherwise leave it out with 'dataset.drop=[{column.name}]'",
        stacklevel=4,
    )
