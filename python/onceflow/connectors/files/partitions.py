"""Which files a source reads, each of them one partition."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import BinaryIO, ClassVar

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.files.inspection import look_at_files
from onceflow.connectors.files.malformed import MalformedPolicy, check_policy
from onceflow.connectors.files.record_times import EventTime, check_event_time
from onceflow.exceptions import ConfigurationError, SourceError
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader
from onceflow.types import Plain

__all__ = ["FileSource", "NotYetReader", "Paths", "open_file"]

#: One path, a pattern such as ``"in/*.csv"``, or several of them.
Paths = str | PathLike[str] | Sequence[str | PathLike[str]]

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class FileSource(Source):
    """Files, each of them a partition that is read from its beginning to its end.

    Args:
        paths: A file, a pattern, or several.
        event_time: What gives the time of a record; None if nothing does.
        on_malformed: What becomes of records that cannot be read.

    Raises:
        ConfigurationError: No path at all, something else than paths, or another setting that cannot be.
    """

    # Each open file costs a descriptor, and its reader the memory of a block or a row group.
    max_open_partitions: ClassVar[int | None] = 64

    def __init__(self, paths: Paths, event_time: EventTime | None, on_malformed: MalformedPolicy) -> None:
        given = [paths] if isinstance(paths, (str, PathLike)) else paths
        if not isinstance(given, Sequence) or not all(isinstance(path, (str, PathLike)) for path in given):
            raise ConfigurationError(
                f"paths={paths!r}: give a path, a pattern such as 'in/*.csv', or a list of them", setting="paths"
            )
        self._paths = [os.fsdecode(path) for path in given]
        if not self._paths:
            raise ConfigurationError("a file source needs at least one path")
        self.event_time = check_event_time(event_time)
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self.has_event_time = event_time is not None
        self.deterministic = not callable(event_time)
        self.has_dead_letters = self._policy == "dead_letter"

    def partitions(self) -> list[str]:
        """The files, as given, each once, patterns expanded in sorted order.

        Raises:
            SourceError: A pattern that matches nothing, or something that cannot be read as a file.
        """
        found: dict[str, str] = {}
        for path in self._paths:
            matches = [path]
            if glob.has_magic(path) and not os.path.lexists(path):
                _check_directories(path)
                matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - absolute patterns too
                if not matches:
                    raise SourceError(f"no file matches {path!r}; check the pattern and the working directory")
            for match in matches:
                # "a.csv", "./a.csv" and a link to it are one file; reading it twice would count it twice. A link is
                # another one's name soon, as latest.csv is.
                file = match if "\0" in match else os.path.realpath(match)
                known = found.get(file)
                if known is None or (os.path.islink(known) and not os.path.islink(match)):  # noqa: PTH114
                    found.pop(file, None)
                    found[file] = match
        for path in found.values():
            # Most are opened only when it is their turn, which may be hours from now.
            open_file(path).close()
        return list(found.values())

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def same_position(self, one: Plain, other: Plain) -> bool:
        """See ``Source``: the stamp of a file says when it was written to, and older positions hold less."""
        if not isinstance(one, dict) or not isinstance(other, dict):
            return one == other
        shared = (one.keys() & other.keys()) - {"stamp"}
        return all(one[name] == other[name] for name in shared)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Source``."""
        return look_at_files(self.partitions())


class NotYetReader(SourceReader):
    """Of a file in which nothing can be read yet; a later run opens it at its beginning."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def read(self, max_records: int) -> SourceBatch | None:
        return None

    def position(self) -> Plain:
        return None

    def close(self) -> None:
        self._close()


def _check_directories(pattern: str) -> None:
    """Raises ``SourceError`` for a directory that cannot be listed: what it holds would be left out."""
    directory = os.path.dirname(pattern)  # noqa: PTH120 - as glob takes patterns apart
    while directory:
        # One that lies behind a closed directory does not match, as if it were not there.
        matches = glob.glob(directory, recursive=True) if glob.has_magic(directory) else [directory]  # noqa: PTH207
        for match in matches:
            if _is_closed(match):
                raise SourceError(
                    f"directory {match} cannot be read, so it is not known which files of {pattern!r} it holds; allow "
                    "it, or give a pattern that leaves it out"
                )
        directory = os.path.dirname(directory) if glob.has_magic(directory) else ""  # noqa: PTH120


def _is_closed(directory: str) -> bool:
    try:
        mode = os.stat(directory).st_mode  # noqa: PTH116 - a path may be more than Path takes
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(mode) and not os.access(directory, os.R_OK | os.X_OK, effective_ids=True)


def open_file(path: str) -> BinaryIO:
    """The file, for reading.

    Raises:
        SourceError: Missing, a directory, or a pipe, socket or device, which have no positions; or not to be read.
    """
    try:
        name = path.encode().decode()
    except UnicodeEncodeError:
        raise SourceError(
            f"{path!r} is a name that is not UTF-8, so no checkpoint can hold a position in it; rename the file"
        ) from None
    try:
        _check_kind(name, os.stat(path))  # noqa: PTH116 - a path may be more than Path takes
        # What stands there may be another thing by now: opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_kind(name, os.fstat(descriptor))
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError:
        if os.path.islink(path):  # noqa: PTH114
            target = os.readlink(path)  # noqa: PTH115
            raise SourceError(
                f"{name} is a link to {target!r}, which does not exist; mend or remove the link"
            ) from None
        raise SourceError(f"{name} does not exist; check the path and the working directory ({Path.cwd()})") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{name} cannot be read: {reason}") from error


def _check_kind(name: str, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise SourceError(f"{name} is a directory, not a file; to read all files in it give {name}/*")
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise SourceError(
            f"{name} is {kind}, no regular file, so it cannot be read again from a position; copy what comes from it "
            "to a file, or write a source of your own for it"
        )
