"""Where a log lies: a path, or anything that knows its own."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Protocol, TypeAlias

__all__ = ["LogDirectory", "directory_of"]


class _HasPath(Protocol):
    @property
    def path(self) -> str: ...


#: The directory of a log, or an open log. In one process all handles of a directory are the same log.
LogDirectory: TypeAlias = str | PathLike[str] | _HasPath


def directory_of(log: LogDirectory) -> Path:
    """The directory of the log."""
    return Path(fspath(log) if isinstance(log, (str, PathLike)) else log.path)
