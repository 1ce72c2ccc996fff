"""Which packages may be missing? Those of the extras; the error names the one to install."""

import importlib
from types import ModuleType


class MissingPackageError(ImportError):
    """An optional package is not installed; the message says which extra brings it."""


def import_optional(name: str, extra: str, purpose: str) -> ModuleType:
    """Import a package that an extra of picpoint brings.

    Args:
        name: of the package or of a module in it.
        extra: of picpoint.
        purpose: what needs it, to begin the message with.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{purpose} needs {error.name}, which is not installed: pip install 'picpoint[{extra}]'"
        ) from error
