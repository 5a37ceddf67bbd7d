"""Signs behind the name of a row, and the notes that say what they stand for."""

import pandas as pd

from efface.report.circumstances import mixed, seeds_in_words

AT_TEST, MIXED, AT_EDGE = "†", "‡", "§"
LEGEND = {
    AT_TEST: "uses the protected attribute at test time, and is left out when the best is marked",
    MIXED: "runs of one cell were made under circumstances that differ, so that ± is not the spread over seeds alone",
    AT_EDGE: "what val chose lies at the edge of its grid of hyper-parameters: a wider grid may hold something better",
}


def signs_of(runs: pd.DataFrame) -> str:
    """Return the signs of some runs, in the order of `LEGEND`."""
    has = {
        AT_TEST: bool(runs["uses_attribute_at_test"].any()),
        MIXED: bool(mixed(runs)),
        AT_EDGE: bool(_seeds_at_edge(runs)),
    }
    return "".join(sign for sign in LEGEND if has[sign])


def signed(name: str, runs: pd.DataFrame) -> str:
    """Return the name of a row of runs, with its signs behind it."""
    return " ".join(filter(None, [name, signs_of(runs)]))


def footnotes(cell: pd.DataFrame) -> dict[str, str]:
    """Return the signs of one cell, with what they stand for in particular: which circumstances, which seeds.

    A sign that says all there is to say has an empty note.
    """
    notes = {AT_TEST: ""} if cell["uses_attribute_at_test"].any() else {}
    if differs := mixed(cell):
        notes[MIXED] = "; ".join(differs.values())
    if seeds := _seeds_at_edge(cell):
        every = len(seeds) == (cell["status"] == "done").sum()
        notes[AT_EDGE] = f"chosen at the edge under {'every seed' if every else seeds_in_words(seeds)}"
    return notes


def _seeds_at_edge(runs: pd.DataFrame) -> list[int]:
    if "at_edge" not in runs:
        return []
    return sorted(runs.loc[(runs["status"] == "done") & (runs["at_edge"] == True), "seed"])  # noqa: E712
