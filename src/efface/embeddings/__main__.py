"""`python -m efface.embeddings fit | apply | certify`: erase a concept from embeddings that fill many files.

Shards are .npy, .safetensors or .parquet files with embeddings [n, d], and labels in files beside them or in the same
ones. Several processes share them: `torchrun --nproc-per-node 4 -m efface.embeddings fit ...`.
"""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, get_args

from efface.embeddings.apply import apply
from efface.embeddings.certify import certify
from efface.embeddings.erasers import LoadedEraser
from efface.embeddings.fit import Fit, Method, fit
from efface.embeddings.group import Group, SharedError, joined
from efface.embeddings.shards import Source

Command = Callable[[argparse.Namespace, Group], int]


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0; 1 if a certificate is above its tolerance; 2 if something is wrong, which is printed.
    """
    options = _parser().parse_args(argv)
    try:
        with joined() as group:
            return _run(options, group)
    except ValueError as error:  # of `joined`
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, group: Group) -> int:
    """Run a command on this process of a group; return its exit status."""
    command: Command = options.command
    try:
        with warnings.catch_warnings(record=True) as caught:
            status = command(options, group)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        if isinstance(error, SharedError):
            _say(str(error), group, sys.stderr)
        else:
            print(error, file=sys.stderr)
        return 2
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        _say(f"warning: {message}", group, sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m efface.embeddings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="fit | apply | certify")
    fitting = commands.add_parser("fit", help="fit an eraser on labelled shards")
    fitting.set_defaults(command=_fit)
    _add_shards(fitting)
    fitting.add_argument("--out", type=Path, required=True, help="the eraser's file, such as eraser.safetensors")
    fitting.add_argument("--method", choices=get_args(Method), default="leace", help="default: leace")
    fitting.add_argument("--no-shrinkage", action="store_true", help="do not shrink covariances")
    fitting.add_argument("--rtol", type=float, default=1e-4, help="weaker correlations stay in place (default: 1e-4)")
    fitting.add_argument(
        "--checkpoint",
        type=_within(0, math.inf),
        default=60,
        metavar="SECONDS",
        help="how often, at ends of shards (default: 60)",
    )
    applying = commands.add_parser("apply", help="write erased copies of shards")
    applying.set_defaults(command=_apply)
    applying.add_argument("eraser", type=Path, help="an eraser that fit or .save() wrote")
    _add_shards(applying)
    applying.add_argument("--out", type=Path, required=True, help="the folder to write to")
    certifying = commands.add_parser("certify", help="measure what an eraser leaves in shards, which are un-erased")
    certifying.set_defaults(command=_certify)
    certifying.add_argument("eraser", type=Path, help="an eraser that fit or .save() wrote")
    _add_shards(certifying)
    certifying.add_argument(
        "--tolerance", type=_within(0, 1), default=1e-3, help="for the whitened covariance, from 0 to 1 (default: 1e-3)"
    )
    certifying.add_argument("--json", action="store_true", help="print the certificate as JSON")
    return parser


def _within(low: float, high: float) -> Callable[[str], float]:
    """Return what reads a number of this range for an option of the command line."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"is {text}, but must be a number from {low:g} to {high:g}")
        return value

    return number


def _add_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", nargs="+", type=Path, help="files with embeddings")
    parser.add_argument(
        "--labels", nargs="+", type=Path, help="files with labels, one for each shard (default: the shards themselves)"
    )
    parser.add_argument("--x", default="x", metavar="NAME", help="tensor or column of the embeddings (default: x)")
    parser.add_argument("--z", default="z", metavar="NAME", help="tensor or column of the labels (default: z)")


def _source(options: argparse.Namespace) -> Source:
    labels = None if options.labels is None else tuple(options.labels)
    return Source(tuple(options.shards), labels, options.x, options.z)


def _fit(options: argparse.Namespace, group: Group) -> int:
    how = Fit(options.method, not options.no_shrinkage, options.rtol)
    done = fit(_source(options), how, options.out, group, seconds=options.checkpoint)
    _say(done, group)
    return 0


def _apply(options: argparse.Namespace, group: Group) -> int:
    _say(apply(_source(options), LoadedEraser.load(options.eraser), options.out, group), group)
    return 0


def _certify(options: argparse.Namespace, group: Group) -> int:
    loaded = LoadedEraser.load(options.eraser)
    certificate = certify(_source(options), loaded, group, tolerance=options.tolerance)
    _say(json.dumps(certificate.as_json(), indent=1) if options.json else str(certificate), group)
    return 0 if certificate.is_passed else 1


def _say(text: str, group: Group, file: TextIO | None = None) -> None:
    """Print on the first process."""
    if group.rank == 0:
        print(text, file=file)


if __name__ == "__main__":
    sys.exit(main())
