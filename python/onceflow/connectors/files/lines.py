"""Lines of a file from a byte offset on, and the fingerprint that makes an offset mean the same again."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, BinaryIO

from onceflow.connectors.files.partitions import readable_file
from onceflow.exceptions import SourceChangedError, SourceError
from onceflow.types import Plain

__all__ = ["LineReader"]

_READ_BYTES = 1 << 20
_FINGERPRINT_BYTES = 4096


class LineReader:
    """Hands out lines and knows the offset behind the last one.

    Args:
        path: The file.
        position: What ``position`` returned before; None for the beginning.

    Raises:
        SourceError: Missing, a directory, or not readable.
        SourceChangedError: Shorter than the position, or other bytes before it.
    """

    def __init__(self, path: str, position: Plain) -> None:
        self.path = path
        start: dict[str, Any] = position if isinstance(position, dict) else {}
        self.offset: int = start.get("offset", 0)
        #: Number of the next line, from 1.
        self.line: int = start.get("line", 1)
        try:
            self._file: BinaryIO = readable_file(path).open("rb")
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self._check(start)
            self._file.seek(self.offset)
        except BaseException:
            self._file.close()
            raise
        self._lines: list[bytes] = []
        self._next = 0
        self._rest = b""
        self._ended = False

    def read(self, count: int) -> list[bytes]:
        """Up to ``count`` further lines without their ends; fewer only at the end of the file."""
        while len(self._lines) - self._next < count and not self._ended:
            self._fill()
        lines = self._lines[self._next : self._next + count]
        self._next += len(lines)
        if self._next == len(self._lines):
            self._lines, self._next = [], 0
        self.offset += sum(map(len, lines)) + len(lines)
        self.line += len(lines)
        if self._ended and not self._lines and self._unterminated and lines:
            self.offset -= 1
        return lines

    def _fill(self) -> None:
        try:
            data = self._file.read(_READ_BYTES)
        except OSError as error:
            raise SourceError(f"{self.path} cannot be read at byte {self.offset}: {error.strerror}") from error
        if not data:
            self._ended = True
            self._unterminated = bool(self._rest)
            lines = [self._rest] if self._rest else []
            self._rest = b""
        else:
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()
        self._lines = self._lines[self._next :] + lines
        self._next = 0

    _unterminated = False

    def position(self) -> dict[str, Plain]:
        """Offset and line of what comes next, and a fingerprint of what lies before."""
        head, tail = self._fingerprint(self.offset)
        return {"offset": self.offset, "line": self.line, "head": head, "tail": tail}

    def _fingerprint(self, offset: int) -> tuple[bytes, bytes]:
        here = self._file.tell()
        try:
            self._file.seek(0)
            head = self._file.read(min(offset, _FINGERPRINT_BYTES))
            start = max(0, offset - _FINGERPRINT_BYTES)
            self._file.seek(start)
            tail = self._file.read(offset - start)
        finally:
            self._file.seek(here)
        return blake2b(head, digest_size=16).digest(), blake2b(tail, digest_size=16).digest()

    def _check(self, start: dict[str, Any]) -> None:
        if not start:
            return
        size = self._file.seek(0, 2)
        if size < self.offset:
            raise SourceChangedError(
                f"{self.path} has {size} bytes, and the checkpoint had read {self.offset}: it shrank, so resuming "
                "would not be exact. Put the file back, or start over with fresh state"
            )
        if self._fingerprint(self.offset) != (start["head"], start["tail"]):
            raise SourceChangedError(
                f"{self.path} has other content before byte {self.offset} than when the checkpoint was taken, so "
                "resuming would not be exact. Put the file back, or start over with fresh state"
            )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
