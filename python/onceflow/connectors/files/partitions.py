"""Which files a source reads, each of them one partition."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from onceflow.exceptions import ConfigurationError, SourceError

__all__ = ["Paths", "partitions_of", "readable_file"]

#: One path, a pattern such as ``"in/*.csv"``, or several of them.
Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


def partitions_of(paths: Paths) -> list[str]:
    """The files that ``paths`` name, as given, without repetition, patterns expanded in sorted order.

    Raises:
        ConfigurationError: No path at all.
        SourceError: A pattern that matches nothing.
    """
    given = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    if not given:
        raise ConfigurationError("a file source needs at least one path")
    found: dict[str, None] = {}
    for path in [fspath(one) for one in given]:
        if glob.has_magic(path) and not Path(path).exists():
            matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - absolute patterns too
            if not matches:
                raise SourceError(f"no file matches {path!r}; check the pattern and the working directory")
            found.update(dict.fromkeys(matches))
        else:
            found[path] = None
    return list(found)


def readable_file(path: str) -> Path:
    """The path, if it is a file.

    Raises:
        SourceError: Missing, or a directory.
    """
    file = Path(path)
    if file.is_dir():
        raise SourceError(f"{path} is a directory, not a file; to read all files in it give {path}/*")
    if not file.exists():
        raise SourceError(f"{path} does not exist; check the path and the working directory ({Path.cwd()})")
    return file
