"""What stands in words below a table: how to read it, what its metrics are, and why cells are empty."""

from collections.abc import Collection, Iterable, Sequence

import pandas as pd

from efface.metrics import METRICS
from efface.metrics.metric import Metric
from efface.report.cells import COSTS, EMPTY, Block, Slot, Values, half_width_within, heading, incomplete, unfinished
from efface.report.circumstances import flags, one_line, seeds_in_words, shared
from efface.report.labels import differences
from efface.report.predictions import METRICS as MEASURED
from efface.report.reasons import reason
from efface.report.seeds import FEWEST, Spread
from efface.report.signs import LEGEND, footnotes, signs_of

_OVER = {
    "std": "mean ± standard deviation over n seeds",
    "interval": "mean ± half-width of its 95 % t interval, t(n − 1, .975) · s / √n, over n seeds",
}
WITHIN = (
    "[± …]: half-width of one run's 95 % bootstrap interval over the samples of test, or over whole people, with model "
    "and probe held fixed. It stands beside the spread over seeds and is not part of it: seeds share the test samples, "
    "so that more of them do not make it smaller."
)
"""What stands in brackets behind a mean."""
_MEANS = frozenset({*COSTS, "rank"})
"""Numbers of a run, beside metrics, that tables show."""


def caption(
    runs: pd.DataFrame, columns: Sequence[Slot], numbers: Values, *, single: pd.DataFrame, tested: bool, kind: Spread
) -> tuple[str, ...]:
    """Return sentences on how to read the table.

    Args:
        runs: all of it.
        columns: its columns.
        numbers: its values.
        single: the runs, each fold one.
        tested: whether a test was made.
        kind: what stands behind a mean.
    """
    best = (
        "Bold: the best mean (nearest to 0 or 1 where the arrow says so) over common seeds, those that most methods of "
        "the column have; a method without all of them is not compared"
    )
    if tested:
        best += (
            "; underlined: not significantly worse than it on them (two-sided paired t-test, Holm-corrected within the "
            f"column, 5 %, made where they are {FEWEST} seeds or more; it knows the spread over seeds, not the "
            "sampling of the test split)"
        )
    lacks = incomplete(runs)
    sentences = [
        f"All metrics are on the test split, which no method and no selection saw; {_OVER[kind]}.",
        *folds_in_words(runs, {slot.key for slot in columns if slot.kind in ("metric", "cost")}),
        *(["A row that lacks a fold is of fewer samples, and is left out when the best is marked."] if lacks else []),
        *([WITHIN] if any(half_width_within(of_runs) is not None for of_runs in numbers.values()) else []),
        f"{best}.",
        "The model of the last epoch is kept, unless the training names a metric on val; methods fit on train or "
        "on the pairs, never on test.",
    ]
    if any(slot.kind == "head" for slot in columns):
        sentences.append(
            "Head: kept as the base model had it, or fitted by the method; methods of unlike heads differ in more than "
            "in what they erased."
        )
    sentences += [f"{sign} {LEGEND[sign]}." for sign in signs_of(runs)]
    if any(slot.kind == "published" for slot in columns):
        sentences.append("Published: as printed in the source; difference: ours minus published.")
    if made := shared(single):
        sentences.append(made)
    return tuple(sentences)


def folds_in_words(runs: pd.DataFrame, keys: Collection[str]) -> list[str]:
    """Return how folds were pooled, where some were.

    Args:
        runs: of one table, the folds of one configuration and seed in one row.
        keys: metrics and other numbers that the table shows.
    """
    if "of_folds" not in runs or runs["of_folds"].isna().all():
        return []
    averaged = [metric.heading for metric in METRICS if metric.key in set(keys) - set(MEASURED)]
    sentences = [
        "Folds are pooled: the model of each fold predicts that fold's test samples, so that every sample is predicted "
        f"once{_sizes(runs)}, and metrics and intervals are computed on all predictions of one seed together."
    ]
    if averaged:
        sentences.append(
            f"What predictions do not tell ({'; '.join(averaged)}) is the mean over folds weighted by the size of "
            "test, with an interval that takes folds as independent."
        )
    if _MEANS & set(keys):
        sentences.append("Time, memory and rank are means over folds.")
    return sentences


def missing_folds(runs: pd.DataFrame) -> list[str]:
    """Return which folds the pools of one row lack, and why, with the seeds."""
    if "of_folds" not in runs:
        return []
    lacking = runs[(runs["status"] == "done") & (runs["folds"] < runs["of_folds"])]
    return [f"{seeds_in_words(sorted(group['seed']))}, {why}" for why, group in lacking.groupby("reason")]


def _sizes(runs: pd.DataFrame) -> str:
    """Return in parentheses how many samples, and of how many people, the pools without a missing fold have."""
    whole = runs[runs["folds"] == runs["of_folds"]]
    samples, persons = (sorted(set(whole[name].dropna().astype(int))) for name in ("n_test", "n_people"))
    if len(samples) != 1:
        return ""
    return f" ({samples[0]:,} in all{f', of {persons[0]:,} people' if len(persons) == 1 else ''})"


def definitions(metrics: Iterable[Metric], columns: Sequence[Slot]) -> tuple[str, ...]:
    """Return a sentence for each metric that the table has."""
    titles = {slot.title for slot in columns}
    return tuple(
        f"{m.heading[0].upper()}{m.heading[1:]}: {m.formula}{f' ({m.source})' if m.source else ''}."
        for m in metrics
        if heading(m) in titles
    )


def notes(
    runs: pd.DataFrame,
    settings: Sequence[Block],
    metrics: Sequence[Metric],
    numbers: Values,
    columns: Sequence[Slot],
    failures: Sequence[str],
    *,
    single: pd.DataFrame,
) -> tuple[str, ...]:
    """Return why cells are empty, what failed, and what is hard to compare; each is one line."""
    lines = [
        *(line for block in settings for line in _open_runs(block)),
        *(line for block in settings for line in _open_folds(block)),
        *(line for block in settings for line in _signed(block)),
        *_gaps(settings, metrics, numbers, columns),
        *differences(runs),
        *(f"flagged: {flag}" for flag in flags(single)),
        *(f"failed, not in the table: {failure}" for failure in failures),
    ]
    return tuple(map(one_line, lines))


def _open_runs(block: Block) -> list[str]:
    return [
        f"{block.setting} / {method}, seed {', '.join(map(str, seeds))}: {why}"
        for method, group in block.by_method.items()
        for seeds, why in unfinished(group)
    ]


def _open_folds(block: Block) -> list[str]:
    """Return which folds the pools lack, and why."""
    return [
        f"{block.setting} / {method} lacks folds: {why}"
        for method, done in block.done.items()
        for why in missing_folds(done)
    ]


def _signed(block: Block) -> list[str]:
    if not signs_of(block.runs):
        return []
    return [
        f"{block.setting} / {method}: {sign} {note}"
        for method, cell in block.done.items()
        for sign, note in footnotes(cell).items()
        if note
    ]


def _gaps(settings: Sequence[Block], metrics: Sequence[Metric], numbers: Values, columns: Sequence[Slot]) -> list[str]:
    """Return one line for all metrics that lack a value in the same settings for the same reason."""
    has_column = {(slot.setting, slot.key) for slot in columns if slot.kind == "metric"}
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for block in settings:
        for metric in metrics:
            if (block.setting, metric.key) in has_column:
                empty = {m: runs for m, runs in block.done.items() if (block.setting, m, metric.key) not in numbers}
                gaps = [(f"{EMPTY} under", reason(runs, metric.key)) for runs in empty.values()]
            elif metric.key in block.runs and block.done:
                gaps = [("no", reason(pd.concat(block.done.values()), metric.key))]
            else:
                gaps = []
            for kind, why in gaps:
                places.setdefault((kind, metric.heading, why), {})[block.setting] = None
    headings: dict[tuple[str, str, str], list[str]] = {}
    for (kind, name, why), where in places.items():
        headings.setdefault((", ".join(where), kind, why), []).append(name)
    return [f"{where}: {kind} {'; '.join(names)}: {why}" for (where, kind, why), names in headings.items()]
