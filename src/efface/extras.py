"""Optional dependencies: the package installs what the numeric cores need, and its extras the rest."""

from importlib.util import find_spec


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; a mere folder of its name, such as W&B leaves, is none."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def require(*modules: str, extra: str, what: str) -> None:
    """Check that the top-level modules which an extra installs are there, without importing them.

    Args:
        modules: their names.
        extra: the extra of efface that installs them.
        what: what needs them, as a person asked for it.

    Raises:
        ModuleNotFoundError: some are not there; the message names them, and what to install.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        raise ModuleNotFoundError(
            f"{what} needs {' and '.join(missing)}: pip install 'efface[{extra}]'", name=missing[0]
        )
