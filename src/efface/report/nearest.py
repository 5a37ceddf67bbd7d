"""Tables of nearest words on the page of an experiment, written from its `neighbours.csv` between two markers.

    <!-- neighbours: method=rlace,leace k=5 -->
    ...
    <!-- /neighbours -->

A row for each word, its k nearest words before and after each method, nearest first. Of a method it is the run of which
the frame holds neighbours.
"""

import re

import pandas as pd

from efface.report.labels import parse
from efface.report.render import pipes, plain

_MARKED = re.compile(r"(<!-- neighbours: (?P<words>[^>]*?) -->\n).*?(<!-- /neighbours -->)", re.DOTALL)


def with_neighbours(text: str, runs: pd.DataFrame, neighbours: pd.DataFrame, *, name: str) -> str:
    """Return a page's text with the tables of nearest words between its markers made anew.

    Args:
        text: of the page.
        runs: with `path` and `method_name`.
        neighbours: `path`, `word`, and its nearest words `before` and `after`, with blanks.
        name: of the page, for messages.

    Raises:
        ValueError: a marker has no end, is not understood, or names a method without neighbours.
    """

    def made(match: re.Match[str]) -> str:
        try:
            return f"{match.group(1)}{_table(parse(match['words']), runs, neighbours)}\n{match.group(3)}"
        except ValueError as error:
            raise ValueError(f"{name}, neighbours: {match['words']}: {error}") from error

    if text.count("<!-- neighbours:") != len(_MARKED.findall(text)):
        raise ValueError(f"{name}: each <!-- neighbours: ... --> needs a <!-- /neighbours --> below it")
    return _MARKED.sub(made, text)


def _table(options: dict[str, str], runs: pd.DataFrame, neighbours: pd.DataFrame) -> str:
    if options.keys() != {"method", "k"}:
        raise ValueError("name method=..., with commas, and k=...")
    if len(neighbours) == 0:
        raise ValueError("there is no neighbours.csv: its runs are of evaluation=word_embeddings")
    named = neighbours.merge(runs[["path", "method_name"]], on="path")
    methods = options["method"].split(",")
    words: dict[str, list[str]] = {}
    for method in methods:
        rows = named[named["method_name"] == method]
        if len(rows) == 0:
            raise ValueError(f"there are no neighbours of {method}, but of {', '.join(named['method_name'].unique())}")
        for word, before, after in zip(rows["word"], rows["before"], rows["after"], strict=True):
            words.setdefault(word, [_first(before, int(options["k"]))]).append(_first(after, int(options["k"])))
    header = ["word", "before", *(f"`{method}`" for method in methods)]
    return pipes(header, [[plain(word), *cells] for word, cells in words.items()])


def _first(words: str, k: int) -> str:
    return plain(", ".join(words.split(" ")[:k]))
