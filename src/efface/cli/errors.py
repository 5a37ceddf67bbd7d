"""What Hydra refused, explained: what is wrong, the keys that stand beside it, and the closest one."""

import difflib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import Container, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
)

from efface.cli.conf import CONF, SHARED, about, file_options, groups, option_files, primary, settable
from efface.cli.settings import UnknownKeyError
from efface.options import OptionError


def explain(error: Exception, root: Path = CONF) -> str:
    """Return what a person needs to know of an error of Hydra or OmegaConf.

    Args:
        error: as it was raised.
        root: where the yaml files of the groups are.
    """
    for cause in _causes(error):
        if isinstance(cause, OverrideParseException):
            return _unquoted(cause)
        if isinstance(cause, UnknownKeyError):
            return _unknown(cause.key, root)
        if isinstance(cause, MissingMandatoryValue | InterpolationToMissingValueError) and cause.full_key:
            return _unset(cause.full_key, cause.parent_node, root)
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
            return _unknown(cause.full_key, root, _plain(cause.parent_node).get("name", ""))
        if type(cause) in (OptionError, ValueError):  # from a resolver: OmegaConf's own are subclasses
            return str(cause)
    if isinstance(error, MissingConfigException):
        return _missing(error)
    return "\n".join(line for line in str(error).splitlines() if not line.startswith("To append to your "))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those in whose handling it was raised; OmegaConf hides them as causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _missing(error: MissingConfigException) -> str:
    """Return which file of a group there is none of, and which there are."""
    text = str(error).partition("\n")[0]
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    lines = [text, f"Options of {group}: {', '.join(error.options)}"] if error.options else [text]
    lines += [f"Did you mean {group}={close}?" for close in difflib.get_close_matches(name, error.options or [], 1)]
    if group.startswith("hydra/") and not find_spec("hydra_plugins"):
        lines.append("Launchers and sweepers are an extra: pip install 'efface[launchers]'")
    return "\n".join(lines)


def _unquoted(error: OverrideParseException) -> str:
    key, equals, value = error.override.partition("=")
    text = str(error).partition("\nSee https://")[0]
    if not equals:
        return f"{text}\nAn option is set as key=value"
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f"{text}\nA special character in a value? Quote it, for the shell and for Hydra: '{key}=\"{quoted}\"'"


def _unset(key: str, node: object, root: Path) -> str:
    """Return how to set a key that has no value, or the top-level key that it takes its value from."""
    group, _, leaf = key.rpartition(".")
    options = _plain(node)
    source = re.fullmatch(r"\$\{([\w.]+)\}", str(options.get(leaf)))
    key = source[1] if source else key
    lines = [f"{key} has no value, and no default: set {key}=..."]
    file = option_files(group, root).get(str(options.get("name"))) if group else None
    return "\n".join([*lines, *([f"{group}={file.stem}: {about(file)}"] if file else [])])


def _plain(node: object) -> dict[str, Any]:
    """Return the options of a node as they are written; none if it is not a node of options."""
    if not isinstance(node, Container) or not OmegaConf.is_dict(node):
        return {}
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))


def _unknown(key: str, root: Path, choice: str = "") -> str:
    """Return what can be set in place of a key that is not there; `choice` names the option of its group."""
    group, dot, leaf = key.partition(".")
    if dot and group in groups(root):
        by_file = {name: settable(file, group, root) for name, file in option_files(group, root).items()}
        keys = sorted({name for names in by_file.values() for name in names})
        if leaf in keys:
            having = ", ".join(name for name, names in by_file.items() if leaf in names)
            others = ", ".join(by_file.get(choice, ())) or "none"
            return (
                f"{group}={choice} has no option {leaf}. Its options: {others}\n"
                f"These have {key}: {having}\n"
                "In a grid, run the others in a command of their own, into the same results_dir"
            )
        kind, prefix = f"Keys of {group}", f"{group}."
    else:
        options = primary(root) | file_options(SHARED / "run.yaml", "", root)
        keys = [*groups(root), *(name for name in options if name not in ("defaults", "hydra", "run_class"))]
        kind, prefix, leaf = "Groups and keys", "", group
    lines = [f"{key}: there is no such option", f"{kind}: {', '.join(keys)}"]
    return "\n".join([*lines, *(f"Did you mean {prefix}{name}?" for name in difflib.get_close_matches(leaf, keys, 1))])
