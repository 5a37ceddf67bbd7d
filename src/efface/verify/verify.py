"""All comparisons of one folder."""

from collections.abc import Iterator
from pathlib import Path

from efface.passport.render import JSON
from efface.record import RECORD, Record
from efface.verify.check import Check
from efface.verify.stored import check_passport, check_record

TOLERANCE = 1e-3


def verify(
    directory: Path,
    *,
    data: Path | None = None,
    cache_dir: Path = Path("cache"),
    tolerance: float = TOLERANCE,
    run_programs: bool = False,
) -> Iterator[Check]:
    """Compare a run, or an export, with what its record and its passport say.

    Args:
        directory: with `record.json`, as of a run, or `passport.json`, or both, as of an export.
        data: where the data are, to measure the stored model again; None for not.
        cache_dir: where a base model may lie that was trained before.
        tolerance: of metrics that are measured again.
        run_programs: run a `model.pt2` too. It can do whatever you can: only of a maker whom you trust.

    Yields:
        One check after the other, quick ones first. Nothing is written.

    Raises:
        FileNotFoundError: the folder holds neither.
        ValueError: record or passport are damaged, or of another schema; the message says what to do.
    """
    record = Record.read(directory / RECORD) if (directory / RECORD).is_file() else None
    if record is None and not (directory / JSON).is_file():
        raise FileNotFoundError(f"{directory} holds no run and no export: it has no {RECORD} and no {JSON}")
    if record is not None and record.status != "done":
        raise ValueError(f"{directory} holds no model: its run is {record.status} ({record.reason})")
    if record is not None:
        yield from check_record(directory, record)
    if (directory / JSON).is_file():
        yield from check_passport(directory, record)
    yield from _model(directory, record, run_programs)
    if data is None:
        yield Check("the model, measured again", None, "no data are named: --data PATH")
    elif record is None:
        yield Check("the model, measured again", None, f"{directory} has no {RECORD}, which says how")
    else:
        from efface.verify.again import check_data

        yield from check_data(directory, record, data, cache_dir, tolerance, run_programs=run_programs)


def _model(directory: Path, record: Record | None, run_programs: bool) -> Iterator[Check]:
    """Load the stored model, and compute the logits of the stored inputs."""
    from efface.debiased import MODEL_FILE, Debiased
    from efface.export.stored import INPUTS_FILE
    from efface.verify.logits import check_logits

    if record is not None and MODEL_FILE in record.artifacts:
        try:
            Debiased.load(directory / MODEL_FILE)
        except (OSError, ValueError) as error:
            yield Check(f"{MODEL_FILE}, with its own checksum", False, str(error))
        else:
            yield Check(f"{MODEL_FILE}, with its own checksum", True)
    if not (directory / INPUTS_FILE).is_file():
        yield Check("logits of stored inputs", None, f"no {INPUTS_FILE}, as in a run: --data measures the model")
        return
    try:
        yield from check_logits(directory, run_programs=run_programs)
    except (ValueError, LookupError) as error:
        yield Check("logits of stored inputs", False, str(error))
