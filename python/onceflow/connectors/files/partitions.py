"""Which files a source reads, each of them one partition."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from onceflow.exceptions import ConfigurationError, SourceError

__all__ = ["Paths", "described", "partitions_of", "readable_file"]

#: One path, a pattern such as ``"in/*.csv"``, or several of them.
Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


def _listed(paths: Paths) -> list[str]:
    given = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    return [fspath(path) for path in given]


def described(paths: Paths) -> list[str]:
    """The paths for ``Source.describe``."""
    return _listed(paths)


def partitions_of(paths: Paths) -> list[str]:
    """The files that ``paths`` name, as given, each once, patterns expanded in sorted order.

    Raises:
        ConfigurationError: No path at all.
        SourceError: A pattern that matches nothing.
    """
    given = _listed(paths)
    if not given:
        raise ConfigurationError("a file source needs at least one path")
    found: dict[str, str] = {}
    for path in given:
        matches = [path]
        if glob.has_magic(path) and not Path(path).exists():
            matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - absolute patterns too
            if not matches:
                raise SourceError(f"no file matches {path!r}; check the pattern and the working directory")
        for match in matches:
            # "a.csv" and "./a.csv" are one file; reading it twice would count it twice.
            found.setdefault(os.path.normpath(match), match)
    return list(found.values())


def readable_file(path: str) -> Path:
    """The path, if it is a file.

    Raises:
        SourceError: Missing, a directory, or a pipe or device, which have no positions.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise SourceError(f"{path} is a directory, not a file; to read all files in it give {path}/*")
        if not file.exists():
            raise SourceError(f"{path} does not exist; check the path and the working directory ({Path.cwd()})")
        if not file.is_file():
            raise SourceError(f"{path} is no regular file, so it cannot be read again from a position")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    return file
