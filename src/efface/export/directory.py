"""A directory that is written as a whole or not at all: the formats, stored inputs, and the passport."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from efface import passport
from efface.export import estimator, onnx, pretrained, program, weights
from efface.export.whole import Whole
from efface.files import scratch

FORMATS: Mapping[str, Callable[[Whole, Path], None]] = {
    "safetensors": weights.write,
    "torch": program.write,
    "onnx": onnx.write,
    "transformers": pretrained.write,
    "sklearn": estimator.write,
}
_PREFIX = ".efface-export-"


def require_new(out: Path) -> None:
    """Check that nothing would be overwritten, before anything costly begins.

    Raises:
        FileExistsError: the folder is there.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it, or name another folder")


def require_format(name: str) -> None:
    """Check that there is a format of this name.

    Raises:
        ValueError: there is none; the message names those there are.
    """
    if name not in FORMATS:
        raise ValueError(f"to is {name!r}, but must be one of {', '.join(FORMATS)}")


def write(whole: Whole, out: Path, formats: Sequence[str]) -> None:
    """Write a new folder: formats, stored inputs and their logits, the files of the run, and a passport of all these.

    Args:
        whole: what to write.
        out: the folder; it is there as a whole or not at all.
        formats: of `FORMATS`.

    Raises:
        FileExistsError: the folder is there.
        ExportError: a format cannot hold the model, or the copy computes something else.
    """
    require_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch(out.parent, prefix=_PREFIX) as parent:
        folder = parent / "export"
        folder.mkdir()
        for name in formats:
            FORMATS[name](whole, folder)
        whole.stored.write(folder)
        if whole.estimator is not None:
            estimator.store_rows(whole.rows, folder)
        for name, content in whole.run_files.items():
            (folder / name).write_bytes(content)
        passport.write(whole.passport, folder, passport.digests(folder))
        require_new(out)
        folder.rename(out)
