"""What can be compared without the data: the record, its files, the figures, the passport and its pages."""

from collections.abc import Iterator
from pathlib import Path

from efface.files import file_digest
from efface.identity import run_id
from efface.passport.build import assemble
from efface.passport.facts import PREDICTIONS, Facts
from efface.passport.render import HTML, JSON, MARKDOWN, html, markdown, version_here
from efface.passport.schema import Passport
from efface.record import Record
from efface.runs.directory import damages
from efface.verify.check import Check, compared


def check_record(directory: Path, record: Record) -> Iterator[Check]:
    """Compare a record with its id, its files with their digests, and its metrics with its predictions."""
    expected = run_id(record.config)
    what = "the record's id, of its configuration"
    yield Check(what, record.id == expected, "" if record.id == expected else f"{record.id}, but must be {expected}")
    unknown = [f"{name} has no digest" for name, digest in record.artifacts.items() if digest is None]
    changes = damages(directory, record, ()) + unknown
    yield compared("files, with the digests of the record", changes, ", ".join(record.artifacts))
    predictions = directory / PREDICTIONS
    if PREDICTIONS not in record.artifacts or not predictions.is_file():
        yield Check("metrics, computed again from the predictions", None, f"the run has left no {PREDICTIONS}")
        return
    from efface.verify.figures import check_figures

    try:
        yield from check_figures(record, predictions)
    except (OSError, ValueError, LookupError) as error:  # of pyarrow, and of columns that are missing
        what = "metrics, computed again from the predictions"
        yield Check(what, False, f"{PREDICTIONS} cannot be read ({type(error).__name__}: {error})")


def check_passport(directory: Path, record: Record | None) -> Iterator[Check]:
    """Compare a passport with the files it speaks of, with the record that it is made from, and with its pages."""
    passport = Passport.read(directory / JSON)
    what = f"files, with the digests of {JSON}"
    changes = [change for name, digest in passport.files.items() for change in _changes(directory, name, digest)]
    yield compared(what, changes, f"{len(passport.files)} files")
    if passport.written_by != version_here():
        reason = f"written by efface {passport.written_by}, and this is {version_here()}"
        yield Check(f"{JSON}, made again from the record", None, reason)
        yield Check("pages, made again", None, reason)
        return
    if record is not None and not changes:
        yield compared(f"{JSON}, made again from the record", list(_other_words(directory, passport)))
    pages = {MARKDOWN: markdown, HTML: html}
    others = [
        f"{name} is {'gone' if not (directory / name).is_file() else f'another page than that of {JSON}'}"
        for name, page in pages.items()
        if not (directory / name).is_file() or (directory / name).read_bytes() != page(passport).encode()
    ]
    yield compared("pages, made again", others)


def _changes(directory: Path, name: str, digest: str) -> Iterator[str]:
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        yield f"{name} lies outside of the folder"
    elif not path.is_file():
        yield f"{name} is gone"
    elif file_digest(path) != digest:
        yield f"{name} has changed"


def _other_words(directory: Path, passport: Passport) -> Iterator[str]:
    """Say which parts of a passport its record does not give; the base model's figures are taken as they stand."""
    try:
        facts = Facts.read(directory).with_base(passport)
        again = assemble(facts, command=passport.origin.command, files=passport.files)
    except (OSError, ValueError) as error:
        yield str(error)
        return
    for name in Passport.model_fields:
        if getattr(passport, name) != getattr(again, name):
            yield f"{name} says something else than the record"
