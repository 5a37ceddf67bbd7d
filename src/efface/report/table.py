"""One table of runs: a row for each method, mean ± standard deviation over seeds."""

from dataclasses import dataclass

import pandas as pd

from efface.report.records import LEVELS

COLUMNS = {
    "unbiased_accuracy": "unbiased acc. ↑",
    "worst_group_accuracy": "worst-group acc. ↑",
    "bias_conflicting_accuracy": "conflicting acc. ↑",
    "bias_aligned_accuracy": "aligned acc. ↑",
    "counterfactual_bias": "counterf. bias ↓",
    "probe_information": "probe info., bits ↓",
    "probe_accuracy": "probe acc. ↓",
    "probe_majority": "majority",
    "mlp_probe_information": "MLP probe, bits ↓",
    "feature_shift": "feature shift ↓",
    "bits_per_byte": "bits per byte ↓",
    "seconds_method": "method, s",
}
"""Metrics that are shown where a run has them, and their headings; an arrow points to the better side."""

DEFINITIONS = (
    "All figures are on the test split, which no method and no selection saw; mean ± standard deviation over n seeds.",
    "The model of the last epoch is kept, unless the training names a metric on val; methods fit on train or on the "
    "pairs, never on test.",
    "Groups are the cells of label × attribute. Unbiased and worst-group accuracy are the unweighted mean and the "
    "minimum over the groups that are not empty; a sample is bias-aligned if P(y, a) > P(y) P(a) on train for its "
    "group, else conflicting.",
    "Counterfactual bias is the mean of |p_y(x, a) − p_y(x, a′)| over test samples shown under another attribute, p_y "
    "the probability of the true label.",
    "Probe information is H(a) minus the held-out cross-entropy, in bits, of a converged softmax regression trained on "
    "one half of the test features and scored on the other, inputs scaled by the un-erased training features, penalty "
    "chosen within its own half; it may be slightly negative. The MLP probe has one hidden layer. Of a language model: "
    "that of the layer where it is largest; bits per byte are its loss on the test text.",
)


@dataclass(frozen=True)
class Table:
    """Formatted cells, with what a reader must know to read them."""

    cells: pd.DataFrame
    """Index: the levels that vary; columns: headings."""
    title: str
    caption: str
    notes: tuple[str, ...]
    """Why a cell is empty, and what failed."""

    def markdown(self) -> str:
        """Title, table, caption and notes."""
        body = self.cells.reset_index().to_markdown(index=False, disable_numparse=True, stralign="left")
        notes = "".join(f"\n- {note}" for note in self.notes)
        return f"**{self.title}**\n\n{body}\n\n{self.caption}\n{notes}\n"

    def latex(self) -> str:
        """A booktabs table with the caption below; arrows and signs as LaTeX."""
        text = self.cells.style.format(escape="latex").format_index(escape="latex", axis=0)
        text = text.format_index(escape="latex", axis=1)
        latex = text.to_latex(hrules=True, position="t", caption=_escape(f"{self.title}. {self.caption}"))
        notes = "".join(f"% {note}\n" for note in self.notes)
        for sign, command in _SIGNS.items():
            latex, notes = latex.replace(sign, command), notes.replace(sign, command)
        return notes + latex


_SIGNS = {
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "–": "--", "′": "$'$",
    "†": r"\textdagger{}",
}  # fmt: skip


def _escape(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text


def build(runs: pd.DataFrame) -> Table:
    """The table of a tidy frame of runs, see `efface.report.records.collect`."""
    varying = [level for level in LEVELS if len(set(runs[level])) > 1 or level == "method"]
    fixed = [f"{level} {runs[level].iloc[0]}" for level in LEVELS if level not in varying]
    notes: list[str] = []
    columns = {metric: heading for metric, heading in COLUMNS.items() if metric in runs}
    rows = {}
    # The model without intervention first in each block, then the others by name.
    for key, group in sorted(runs.groupby(varying), key=lambda item: (*item[0][:-1], item[0][-1] != "none", item[0])):
        name = " / ".join(map(str, key))
        done = group[group["status"] == "done"]
        marked = (*key[:-1], f"{key[-1]} †") if group["uses_attribute_at_test"].any() else key
        rows[marked] = {heading: _cell(done, metric) for metric, heading in columns.items()}
        rows[marked]["n"] = str(len(done)) if len(done) == len(group) else f"{len(done)} of {len(group)}"
        for (status, reason), gone in group[group["status"] != "done"].groupby(["status", "reason"]):
            seeds = ", ".join(map(str, sorted(gone["seed"])))
            notes.append(f"{name}, seed {seeds}: {str(status).replace('_', ' ')}: {' '.join(str(reason).split())}")
    cells = pd.DataFrame.from_dict(rows, orient="index", dtype=object)
    cells.index = pd.MultiIndex.from_tuples(list(rows), names=varying)
    if len(varying) == 1:
        cells.index = cells.index.get_level_values(0)
    for metric, reason in _GAPS.items():
        if metric not in columns:
            continue
        column = cells[columns[metric]]
        if (column[~cells["n"].str.startswith("0")] == "–").any():
            notes.append(f"– under {COLUMNS[metric]}: {reason}")
    caption = " ".join(DEFINITIONS)
    if runs["uses_attribute_at_test"].any():
        caption += " † uses the protected attribute at test time."
    return Table(cells=cells, title=", ".join(fixed) or "Runs", caption=caption, notes=tuple(notes))


_GAPS = {
    "counterfactual_bias": "no counterfactual of a sample exists in these data",
    "bias_conflicting_accuracy": "no test sample is bias-conflicting",
    "bias_aligned_accuracy": "no test sample is bias-aligned",
    "probe_information": "probes are switched off (evaluation.probe)",
    "mlp_probe_information": "the non-linear probe is switched off (evaluation.mlp_probe)",
}


def _cell(done: pd.DataFrame, metric: str) -> str:
    values = done[metric].dropna().astype(float) if metric in done else pd.Series(dtype=float)
    if len(values) == 0:
        return "–"
    digits = 2 if metric.startswith("seconds") else 3
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std():.{digits}f}" if len(values) > 1 else mean
