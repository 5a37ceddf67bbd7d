"""CrowS-Pairs: pairs of sentences that differ in the group they speak of (Nangia et al., EMNLP 2020)."""

import csv
from dataclasses import dataclass
from pathlib import Path

HEADER = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
"""Columns that are read, of those of the published file."""
CATEGORIES = (
    *("race-color", "gender", "socioeconomic", "nationality", "religion", "age"),
    *("sexual-orientation", "physical-appearance", "disability"),
)


@dataclass(frozen=True)
class SentencePair:
    """Two sentences that differ in a few words."""

    more: str
    """The one that stereotypes more, or that speaks of the group that has been disadvantaged."""
    less: str
    category: str


def read_pairs(path: Path) -> tuple[SentencePair, ...]:
    """Return the pairs of a csv file, in its order.

    A person's own pairs need the columns `sent_more`, `sent_less` and `bias_type`; others are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a sentence is empty, or there is no pair; the message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path.resolve()}: give the csv of CrowS-Pairs (https://github.com/nyu-mll/crows-pairs) or pairs "
            "of your own"
        )
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = [name for name in HEADER if name != "stereo_antistereo"]
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path} has the columns {', '.join(reader.fieldnames or ('none',))}, but pairs need "
                f"{', '.join(needed)}: {', '.join(missing)} is missing"
            )
        pairs = [_pair(row, f"{path}, line {reader.line_num}") for row in reader]
    if not pairs:
        raise ValueError(f"{path} holds no pair: give at least one")
    return tuple(pairs)


def _pair(row: dict[str, str], where: str) -> SentencePair:
    more, less, category = (row[name] or "" for name in ("sent_more", "sent_less", "bias_type"))
    if not more.strip() or not less.strip():
        raise ValueError(f"{where}: a sentence is empty; give both members of each pair")
    return SentencePair(more.strip(), less.strip(), category)
