"""Write the whole debiased model of a run, from raw input to logits: `python -m efface.export RUN --to onnx`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from efface.extras import require


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with 1 and a message if it fails."""
    parser = argparse.ArgumentParser(prog="python -m efface.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a run, or what DebiasedModel.save wrote")
    parser.add_argument("--to", required=True, help="safetensors, torch, onnx, transformers or sklearn")
    parser.add_argument("--out", type=Path, help="a new folder; default: RUN/export/<format>")
    parser.add_argument("--data-dir", help="where the run's data are; default: as python run.py has it")
    parser.add_argument("--cache-dir", help="where the run's base model is; default: as python run.py has it")
    options = parser.parse_args(arguments)
    try:
        out = export(options.run, options.to, options.out, data_dir=options.data_dir, cache_dir=options.cache_dir)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(out)
    from efface.runs.tracking import how_to_log

    hint = how_to_log(options.run, out)
    if hint is not None:
        print(hint, file=sys.stderr)


def export(
    run: Path, to: str, out: Path | None = None, *, data_dir: str | None = None, cache_dir: str | None = None
) -> Path:
    """Write a model in one format, with a passport, and return the folder.

    Args:
        run: directory of a run, or what `DebiasedModel.save` wrote.
        to: the format.
        out: a new folder; None for one in `run`.
        data_dir, cache_dir: of a run, where its data and its base model are; None for where the command line has them.

    Raises:
        FileExistsError: the folder is there.
        FileNotFoundError: the run, its data or its base model is not there.
        ValueError: there is no such format, or it cannot hold the model.
    """
    require("hydra", "pydantic", "filelock", extra="grid", what="efface.export")
    from efface.export import directory
    from efface.export.source import whole_from

    directory.require_format(to)
    out = run / "export" / to if out is None else out
    directory.require_new(out)
    whole = whole_from(run, data_dir=data_dir, cache_dir=cache_dir)
    directory.write(whole, out, [to])
    return out


if __name__ == "__main__":
    main()
