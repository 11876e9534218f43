"""Libraries of the extras: imported when a connector that needs one is made, and named where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from onceflow.exceptions import MissingExtraError

__all__ = ["require"]


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """A module of an optional library.

    Args:
        module: Its name, such as ``"pyarrow.parquet"``.
        extra: The extra of onceflow that brings the library.
        purpose: What needs it, for the error: ``"as_columns"``.

    Raises:
        MissingExtraError: It is not installed, or does not load; the text says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0].replace("_", "-")
        raise MissingExtraError(f"{purpose} needs {library}: pip install 'onceflow[{extra}]' ({error})") from error
