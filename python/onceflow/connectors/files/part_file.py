"""A part file while it is written and when it is read again, and the calls to the file system that make it durable."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from onceflow._native import _crc32
from onceflow.exceptions import SinkError

__all__ = [
    "OpenPart",
    "checksum_of",
    "make_directory",
    "open_regular",
    "sink_errors",
    "sync_directory",
    "touch",
]

_CHUNK_BYTES = 1 << 20


class OpenPart:
    """A part file that is being written, with its length and checksum.

    Nothing stays behind in a buffer: a process that user code forks would write it a second time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self.checksum = 0
        self._file = FileIO(path, "x")

    def write(self, data: bytes) -> None:
        """Appends; raises ``OSError``."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        self.length += len(data)
        self.checksum = _crc32(data, self.checksum)

    def sync(self) -> None:
        """Makes it durable, and ends it."""
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """What fails here is made good by the next recovery."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def checksum_of(path: Path) -> tuple[int, int]:
    """(length, checksum) of a part file. Raises ``OSError``."""
    length = checksum = 0
    with FileIO(open_regular(path), "r") as file:
        while data := file.read(_CHUNK_BYTES):
            length += len(data)
            checksum = _crc32(data, checksum)
    return length, checksum


def touch(path: Path) -> None:
    """Makes an empty file, unless it is there."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))


def open_regular(path: Path) -> int:
    """A descriptor to read from; raises ``OSError`` for links, pipes and the like."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


@contextlib.contextmanager
def sink_errors(directory: Path) -> Iterator[None]:
    """What the file system says, as a ``SinkError``."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{directory} cannot be written: {error}; check permissions and free space") from error


def make_directory(path: Path, mode: int = 0o777) -> None:
    """A directory that is still there after a power cut, with the files that are synced into it."""
    if not path.parent.exists():
        make_directory(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
