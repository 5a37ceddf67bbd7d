"""A table as text: markdown, CSV, LaTeX with booktabs, and HTML."""

import csv
import html
import io
import math
from collections.abc import Iterator, Sequence

import pandas as pd

from efface.report.cells import Number
from efface.report.folds import PATHS
from efface.report.frames import quoted
from efface.report.table import Cell, Column, Table

WIDEST = 14
"""Columns of a markdown table; a wider one is cut into one for each setting."""
_SIGNS = {
    r"\^{}½": "$^{1/2}$",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "′": "$'$",
    "†": r"\textdagger{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "‖": r"$\Vert$",
    "²": "$^2$",
    "μ": r"$\mu$",
    "λ": r"$\lambda$",
    "Σ": r"$\Sigma$",
    "½": r"$\frac12$",
    "Δ": r"$\Delta$",
    "∈": r"$\in$",
    "…": r"\dots{}",
    "→": r"$\to$",
    "∑": r"$\sum$",
    "√": r"$\surd$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "ε": r"$\varepsilon$",
    "θ": r"$\theta$",
    "ŷ": r"$\hat y$",
    "₀": "$_0$",
    "₁": "$_1$",
    "₂": "$_2$",
    "∫": r"$\int$",
    "≠": r"$\neq$",
    "∞": r"$\infty$",
}

_RESERVED = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"^": r"\^{}", "~": r"\~{}", "\\": r"\textbackslash{}", "<": "$<$", ">": "$>$", "|": "$|$"}
)


def _settings(table: Table) -> list[str]:
    return list(dict.fromkeys(setting for setting, _ in table.columns))


def _words(table: Table) -> str:
    return " ".join((*table.caption, *table.definitions))


def markdown(table: Table, *, words: bool = True) -> str:
    """Return title, table, notes, and in words how to read it. A wide table is cut into one for each setting."""
    settings = _settings(table)
    several = len(settings) > 1
    if len(table.columns) > WIDEST and several:
        parts = [(s, [c for c in table.columns if c[0] == s]) for s in settings]
        body = "\n\n".join(f"**{plain(s)}**\n\n{_pipes(table, columns, named=False)}" for s, columns in parts)
    else:
        body = _pipes(table, table.columns, named=several)
    notes = "".join(f"\n- {plain(note)}" for note in table.notes)
    below = f"{plain(_words(table))}\n" if words else ""
    return f"**{plain(table.title)}**\n\n{body}\n\n{below}{notes}\n"


def plain(text: str) -> str:
    """Return text that markdown does not take for HTML."""
    return text.replace("<", "&lt;")


def pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _pipes(table: Table, columns: tuple[Column, ...] | list[Column], *, named: bool) -> str:
    header = ["method", *(" ".join(column) if named else column[1] for column in columns)]
    rows = [row for row in table.rows if any((row, column) in table.cells for column in columns)]
    body = [
        [plain(row), *(_marked(table.cell(row, column), "**{}**", "<u>{}</u>") for column in columns)] for row in rows
    ]
    return pipes([*map(plain, header)], body)


def _marked(cell: Cell, best: str, tied: str) -> str:
    return {"best": best, "tied": tied, "": "{}"}[cell.mark].format(cell.text)


def to_csv(table: Table) -> str:
    """Return settings and headings in two header rows; cells as text that no spreadsheet runs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["", *(quoted(setting) for setting, _ in table.columns)])
    writer.writerow(["method", *(quoted(title) for _, title in table.columns)])
    for row in table.rows:
        writer.writerow([quoted(row), *(quoted(table.cell(row, column).text) for column in table.columns)])
    return out.getvalue()


def latex(table: Table) -> str:
    r"""Return a booktabs table: needs \usepackage{booktabs}, and graphicx if it is wide."""
    spans = [(s, sum(setting == s for setting, _ in table.columns)) for s in _settings(table)]
    lines = [f"% {note}" for note in table.notes]  # each is one line
    lines += [r"\begin{table}[t]", r"\centering", rf"\caption{{{_escape(f'{table.title}. {_words(table)}')}}}"]
    if len(table.columns) > 8:
        lines.append(r"\resizebox{\textwidth}{!}{%")
    lines += [rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}", r"\toprule"]
    if len(spans) > 1:
        lines.append(" & ".join(["", *(rf"\multicolumn{{{n}}}{{c}}{{{_escape(s)}}}" for s, n in spans)]) + r" \\")
        lines.append(" ".join(_rules(spans)))
    lines += [" & ".join(["method", *(_escape(title) for _, title in table.columns)]) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = (table.cell(row, column) for column in table.columns)
        lines.append(" & ".join([_escape(row), *map(_latex_cell, cells)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if len(table.columns) > 8 else ""), r"\end{table}"]
    text = "\n".join(lines) + "\n"
    for sign, command in _SIGNS.items():
        text = text.replace(sign, command)
    return text


def _latex_cell(cell: Cell) -> str:
    return _marked(Cell(text=_escape(cell.text), mark=cell.mark), r"\textbf{{{}}}", r"\underline{{{}}}")


def _rules(spans: list[tuple[str, int]]) -> Iterator[str]:
    first = 2
    for _, n in spans:
        yield rf"\cmidrule(lr){{{first}-{first + n - 1}}}"
        first += n


def _escape(text: str) -> str:
    return text.translate(_RESERVED)


def to_html(table: Table, *, name: str = "efface") -> str:
    """Return a `<table>` in which each number names the runs behind it, in its title and in `data-runs`.

    Args:
        table: to write.
        name: part of its id in the page.
    """
    columns = pd.MultiIndex.from_tuples(table.columns)
    frame = pd.DataFrame([[_html_cell(table.cell(row, c)) for c in table.columns] for row in table.rows])
    frame.columns, frame.index = columns, pd.Index(map(html.escape, table.rows))
    first = ["first" if i == 0 or table.columns[i - 1][0] != c[0] else "" for i, c in enumerate(table.columns)]
    classes = pd.DataFrame([first] * len(table.rows), index=frame.index, columns=columns)
    style = frame.style.set_td_classes(classes).set_uuid(name)
    style = style.format_index(lambda text: html.escape(str(text)), axis=1)
    return str(style.to_html(table_attributes='class="sortable"', cell_ids=False))


def _html_cell(cell: Cell) -> str:
    text = _marked(Cell(text=html.escape(cell.text), mark=cell.mark), "<b>{}</b>", "<u>{}</u>")
    if cell.runs:
        runs = html.escape("\n".join(map(_origin, cell.runs)))
        return f'<span class="number" role="button" tabindex="0" data-runs="{runs}" title="{runs}">{text}</span>'
    return f'<span title="{html.escape(cell.note)}">{text}</span>' if cell.note else text


def _origin(number: Number) -> str:
    """Return the line that says which run a number is of; of a pool, with a line for each further fold."""
    interval = "" if math.isnan(number.high - number.low) else f" [{number.low:.4g}, {number.high:.4g}]"
    paths = number.path.replace(PATHS, "\n  ")
    return f"seed {number.seed}: {number.value:.6g}{interval}  {paths}"
