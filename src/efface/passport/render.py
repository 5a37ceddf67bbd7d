"""A passport as one page, in HTML and in markdown with the front matter of a model card. Same passport, same bytes."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface.files import file_digest, write_atomically
from efface.metrics import METRICS
from efface.passport.schema import Figure, Passport
from efface.record import PASSPORT_FILES

JSON, MARKDOWN, HTML = PASSPORT_FILES
_MOST_PARTS = 16
"""Groups or labels that a page lists; passport.json has all."""
_LOWEST = 5
"""Groups that it names of those it does not list."""
_TASKS = {
    "colored_mnist": "image-classification",
    "colored_mnist_mini": "image-classification",
    "celeba": "image-classification",
    "adult": "tabular-classification",
}
"""What a data set is for, in the words of model cards; where it is not known, the card says nothing of it."""
_ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0", "one": "→ 1", "": ""}


def write(passport: Passport, folder: str | os.PathLike[str], files: Mapping[str, str] | None = None) -> Passport:
    """Write `passport.json`, `passport.md` and `passport.html` into a folder, each of them atomically.

    Args:
        passport: made by `passport_of`.
        folder: of the run, or of an export.
        files: SHA-256 of each file there that the passport is to speak of, by name; None if they are those of the run.
            A name may have folders in it, with `/`.

    Returns:
        The passport as it was written.

    Raises:
        OSError: the disk is full or read-only. `passport.json` is written last.
    """
    folder = Path(folder)
    if files is not None:
        passport = passport.model_copy(update={"files": dict(sorted(files.items()))})
    texts = {MARKDOWN: markdown(passport), HTML: html(passport), JSON: passport.to_json()}
    for name, text in texts.items():
        content = text.encode()
        write_atomically(folder / name, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    return passport


def version_here() -> str:
    """Return the version of efface that runs, which decides the words of a page."""
    import efface

    return efface.__version__


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder but the passport's own, by its path there, for `write`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in PASSPORT_FILES)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}


def html(passport: Passport) -> str:
    """Return the page. It fetches nothing, and a content policy forbids it to."""
    return _render("page.html", passport, autoescape=True)


def markdown(passport: Passport) -> str:
    """Return the page as markdown, with the front matter of a model card."""
    import yaml

    front = yaml.safe_dump(_front_matter(passport), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{front}---\n\n{_render('page.md', passport, autoescape=False)}"


def _render(template: str, passport: Passport, *, autoescape: bool) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "interval": interval, "arrow": _ARROWS.__getitem__, "lowest": lowest}
    environment.filters["named"] = lambda name: _named(name, passport, in_html=autoescape)
    known = [figure for figure in passport.figures if figure.reason is None]
    return environment.get_template(template).render(
        p=passport,
        figures=[figure for figure in known if not figure.parts],
        tables=[figure for figure in known if figure.parts],
        most_parts=_MOST_PARTS,
        unknown=_by_reason(passport.figures),
        digest=hashlib.sha256(passport.to_json().encode()).hexdigest(),
    )


def number(value: float | None) -> str:
    """Return a number for a reader: four significant digits, or an en dash for none."""
    if value is None:
        return "–"
    return f"{value:.1e}" if value and abs(value) < 1e-4 else f"{value:.3f}"


def interval(bounds: tuple[float, float] | None) -> str:
    """Return an interval in brackets; empty for none."""
    return "" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def lowest(figure: Figure) -> list[tuple[str, float]]:
    """Return the groups with the lowest values of a figure, and these."""
    known = sorted((value, name) for name, value in figure.parts.items() if value is not None)
    return [(name, value) for value, name in known[:_LOWEST]]


def _named(name: str, passport: Passport, *, in_html: bool) -> str:
    """Return the name of a group or label in the data's words; for markdown on one line and without markup."""
    text = passport.data.names.get(name, name)
    if in_html:
        return text
    text = "".join(f"\\{letter}" if letter in "\\|<`*[" else letter for letter in text)
    return " ".join(text.split())


def _by_reason(figures: tuple[Figure, ...]) -> dict[str, list[str]]:
    """Return the headings of figures that have no value, by the reason."""
    headings: dict[str, list[str]] = {}
    for figure in figures:
        if figure.reason is not None:
            headings.setdefault(figure.reason, []).append(figure.heading)
    return headings


def _front_matter(passport: Passport) -> dict[str, Any]:
    """Return what the front matter of a model card can say: what is known, and nothing else."""
    subject = passport.subject
    kind = "concept-erasure" if passport.guarantee.kind in ("linear", "quadratic") else "debiasing"
    card: dict[str, Any] = {
        "library_name": "efface",
        "tags": ["efface", kind, "fairness", subject.method],
        "datasets": [subject.dataset],
        "metrics": [figure.key for figure in passport.figures if figure.value is not None],
    }
    task = _TASKS.get(subject.dataset)
    if task is not None:
        card["model-index"] = [{"name": _name(passport), "results": [_result(passport, task)]}]
    return card


def _name(passport: Passport) -> str:
    subject = passport.subject
    return f"{subject.method}-{subject.model}-{subject.dataset}-{subject.run}-seed{subject.seed}"


def _result(passport: Passport, task: str) -> dict[str, Any]:
    headings = {metric.key: metric.heading for metric in METRICS}
    return {
        "task": {"type": task},
        "dataset": {"type": passport.subject.dataset, "name": passport.subject.dataset, "split": "test"},
        "metrics": [
            {"type": figure.key, "name": headings[figure.key], "value": figure.value}
            for figure in passport.figures
            if figure.value is not None and figure.split.endswith("test")
        ],
    }
