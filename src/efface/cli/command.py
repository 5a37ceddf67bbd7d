"""One command from its arguments to its exit code: `main`, with errors said in a few lines."""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from efface.cli.conf import CONF, groups, option_files, root_of
from efface.cli.errors import explain
from efface.cli.main import COMMAND, FAILURES, main
from efface.cli.resolvers import SCRATCH
from efface.files import scratch
from efface.options import OptionError

FULL = "HYDRA_FULL_ERROR"
_WAYS_OF_SEVERAL = (
    "these are several values. Add -m to run each of them; a list is written key=[a,b], and a string with commas "
    "'key=\"a,b\"'"
)
RESUME = "finished runs stay, half-done ones leave nothing: repeat the command to go on"


def run() -> None:
    """Run `main`. `HYDRA_FULL_ERROR=1` gives tracebacks."""
    root = root_of(config_name(sys.argv[1:]))
    full = os.environ.get(FULL) == "1"
    os.environ[FULL] = "1"  # hand exceptions on, to be said here
    _end_orderly()
    with _scratch() as folder:
        os.environ[COMMAND] = str(os.getpid())
        try:
            check_choices(sys.argv[1:], root)
            sys.argv[1:] = with_root(per_job(flags_first(sys.argv[1:])), root)
            main()
        except KeyboardInterrupt:
            print(f"interrupted: {RESUME}", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        except Exception as error:
            text = _ended(error, _failures(folder) if _multirun(sys.argv) else [], root)
            if full:
                print(text, file=sys.stderr)
                raise
            sys.exit(text)
        failures = _failures(folder)  # of jobs whose sweeper goes on without them
        if failures:
            sys.exit(_listed(failures))


def config_name(arguments: list[str]) -> str:
    """Return the primary config that the command line asks for; the empty string for the default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-name", "-cn", default="")
    return str(parser.parse_known_args(arguments)[0].config_name)


def with_root(arguments: list[str], root: Path) -> list[str]:
    """Return the arguments with the folder of another primary config's groups."""
    return arguments if root == CONF else ["--config-path", str(root), *arguments]


def flags_first(arguments: list[str]) -> list[str]:
    """Return the arguments with those that set an option behind all others; the parser takes no flag between them."""
    return sorted(arguments, key=_is_override)


def check_choices(arguments: list[str], root: Path) -> None:
    """Check that what is chosen from a group is a name; no group can be left empty.

    Raises:
        OverrideParseException: an argument is not in Hydra's grammar.
        OptionError: it is null, or a number.
    """
    texts = [text for text in arguments if _is_override(text)]
    for override in OverridesParser.create().parse_overrides(texts):
        group, chosen = str(override.key_or_group), override.value()
        if group not in groups(root) or override.is_delete():
            continue
        for value in chosen.list if isinstance(chosen, ChoiceSweep) else [chosen]:
            if value is None or isinstance(value, int | float):
                names = ", ".join(option_files(group, root))
                quoted = "null" if value is None else str(value)
                raise OptionError(f"{group} is {quoted}, but must be the name of one of its options: {names}")


def per_job(arguments: list[str]) -> list[str]:
    """Return the arguments with the options of a swept group made part of the sweep.

    Hydra applies what is not swept before it knows which method a job has: beside `method=leace,rlace` it would refuse
    `method.refit_head=true`, which the default method lacks. A choice of one value is applied job by job.

    Raises:
        OverrideParseException: an argument is not in Hydra's grammar.
        OptionError: an argument has several values, but `-m` is not there to run each of them.
    """
    texts = [text for text in arguments if _is_override(text)]
    overrides = dict(zip(texts, OverridesParser.create().parse_overrides(texts), strict=True))
    several = [text for text, override in overrides.items() if override.is_sweep_override()]
    if not _multirun(arguments):
        if several:
            raise OptionError(f"{several[0]}: {_WAYS_OF_SEVERAL}")
        return arguments
    swept = {str(overrides[text].key_or_group) for text in several}

    def job_by_job(text: str) -> str:
        key, _, value = text.partition("=")
        group, dot, _ = key.partition(".")
        is_option = dot and value and group in swept and not overrides[text].is_sweep_override()
        return f"{key}=choice({value})" if is_option else text

    return [job_by_job(text) if text in overrides else text for text in arguments]


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _multirun(arguments: list[str]) -> bool:
    return not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(arguments)


def _said(error: Exception, root: Path) -> str:
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error, root)
    if isinstance(error, OptionError):
        return str(error)
    lines = [_named(error), *getattr(error, "__notes__", []), f"({FULL}=1 shows the traceback)"]
    return "\n".join([*lines, *([RESUME] if _multirun(sys.argv) else [])])


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _ended(error: Exception, failures: list[str], root: Path) -> str:
    """Return the failures of jobs, and the error that ended the sweep unless it is that of a job in the list."""
    if any(_named(error) in failure for failure in failures):
        return _listed(failures)
    # Such as that of a launcher one of whose jobs was killed, and could write nothing down.
    return "\n".join([*([_listed(failures)] if failures else []), _said(error, root)])


def _failures(folder: Path) -> list[str]:
    file = folder / FAILURES
    return file.read_text().split("\0")[:-1] if file.is_file() else []


def _listed(failures: list[str]) -> str:
    return "\n  ".join([f"{len(failures)} {'job' if len(failures) == 1 else 'jobs'} failed:", *failures])


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder for what the command's jobs hand to it, and for what Hydra writes of a dry run."""
    # Where a cluster's nodes can write it too, if they run the jobs.
    on_cluster = any("submitit" in argument or "slurm" in argument for argument in sys.argv)
    with scratch(Path.cwd() if on_cluster else Path(tempfile.gettempdir()), prefix=".efface-") as folder:
        os.environ[SCRATCH] = str(folder)
        yield folder


def _end_orderly() -> None:
    """Let SIGTERM and SIGHUP end the command as an exception does, so that it cleans up behind itself."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores it, and means it
            signal.signal(number, leave)
