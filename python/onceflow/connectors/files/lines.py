"""Lines of a file from a byte offset on, which means the same again as long as the bytes before it are the same.

A last line without its end is handed out as a line, and its position says so. If the file has grown when the job
resumes there, only a line end can follow: anything else continues a line that was handed out already, in part, and no
exact answer exists any more. Where files may grow between runs (``whole_lines``), a last line without its end is left
for a later run, and what is written while the file is read too.
"""

from __future__ import annotations

import codecs
import os
from bisect import bisect_right
from hashlib import blake2b
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple

from onceflow._native import _count_lines, _split_lines
from onceflow.connectors.files.content import Content
from onceflow.connectors.files.partitions import open_file
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError
from onceflow.types import Plain

__all__ = ["MAX_RECORD_BYTES", "Block", "LineReader", "LongLine", "check_encoding"]

#: Longer records are refused, so that a file without line ends, or a quote that is never closed, cannot fill memory.
MAX_RECORD_BYTES = 16 << 20

_READ_BYTES = 1 << 20
# However many lines are asked for, no more bytes than this are handed out at once (but at least one line).
_BATCH_BYTES = 8 << 20
_FINGERPRINT_BYTES = 4096
_SHOWN_BYTES = 1000
# All of ASCII, and a sequence by which some encodings switch to another alphabet.
_PLAIN = bytes(range(128)) + b'\x1b$B$"\x1b(B'
_BOM = b"\xef\xbb\xbf"
# What a file that is no text begins with, and what it is then.
_NO_TEXT = {
    codecs.BOM_UTF16_LE: "UTF-16; convert it to utf-8",
    codecs.BOM_UTF16_BE: "UTF-16; convert it to utf-8",
    b"\x1f\x8b\x08": "compressed by gzip; decompress it",
    b"BZh91AY&SY": "compressed by bzip2; decompress it",
    b"\xfd7zXZ\0": "compressed by xz; decompress it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"PAR1\x15": "a Parquet file; read it by ParquetSource, or convert it",
    b"ARROW1\0\0": "an Arrow IPC file; read it by ArrowIpcSource, or convert it",
}
_REMEDY = "Put the file back, or start over with resume_from='none'"


def check_encoding(encoding: str) -> str:
    """The name that Python gives to an encoding in which ASCII characters are their own bytes.

    Raises:
        ConfigurationError: Unknown, or not a superset of ASCII, so that lines could not be told apart by bytes.
    """
    if not isinstance(encoding, str):
        raise ConfigurationError(
            f"encoding={encoding!r}: give the name of an encoding, such as 'utf-8'", setting="encoding"
        )
    try:
        name = codecs.lookup(encoding).name
        plain = _PLAIN.decode(name) == _PLAIN.decode("ascii")
    except (UnicodeDecodeError, TypeError):
        plain = False
    except (LookupError, ValueError):
        raise ConfigurationError(f"encoding={encoding!r}: Python knows no such encoding", setting="encoding") from None
    if not plain:
        raise ConfigurationError(
            f"encoding={encoding!r} is not a superset of ASCII; convert the files to utf-8 first", setting="encoding"
        )
    return "utf-8" if name == "utf-8-sig" else name


class LongLine(bytes):
    """The beginning of a line that was too long to be kept."""

    size: int

    @classmethod
    def of(cls, beginning: bytes, size: int) -> LongLine:
        """A line of ``size`` bytes."""
        line = cls(beginning)
        line.size = size
        return line


class Block(NamedTuple):
    """Whole lines as they lie in a file.

    Attributes:
        data: The bytes; the last line has its end, also where the file has not.
        start: Where the next line begins in them.
        batch_bytes: No more bytes of lines are handed out at once, but at least one line.
        is_end: Nothing follows them.
    """

    data: bytes
    start: int
    batch_bytes: int
    is_end: bool


class LineReader:
    """Hands out lines and knows the offset behind the last one that was taken.

    Args:
        path: The file.
        position: What ``position`` returned before; None for the beginning.
        encoding: As ``check_encoding`` names it: a byte order mark is passed over in utf-8.
        max_line_bytes: Of longer lines only the beginning is kept, as ``LongLine``.
        whole_lines: Hand out what the file has now, without a last line that has no end yet.

    Raises:
        SourceError: Missing, a directory, not readable, or UTF-16.
        SourceChangedError: Shorter than the position, other bytes before it, or a last line that was continued.
    """

    def __init__(
        self,
        path: str,
        position: Plain,
        encoding: str,
        max_line_bytes: int = MAX_RECORD_BYTES,
        *,
        whole_lines: bool = False,
    ) -> None:
        self.path = path
        self.whole_lines = whole_lines
        start: dict[str, Any] = position if isinstance(position, dict) else {}
        self.offset: int = start.get("offset", 0)
        #: Number of the next line, from 1.
        self.line: int = start.get("line", 1)
        self._max_line_bytes = max_line_bytes
        self._shown_bytes = min(_SHOWN_BYTES, max_line_bytes)
        self._unterminated: bool = start.get("unterminated", False)
        #: The next lines, from number ``_next`` on.
        self._lines: list[bytes] = []
        self._next = 0
        #: Behind them the lines that nobody has asked for one by one yet, with their ends, from byte ``_at`` on.
        self._block = b""
        self._at = 0
        self._block_lines = 0
        #: Bytes of both.
        self._buffered = 0
        #: The beginning of a line whose end is not read yet.
        self._rest = b""
        self._long: LongLine | None = None
        self._long_lines = 0
        self._ended = False
        self._tail_is_open = False
        self._file: BinaryIO = open_file(path)
        #: What is read ends here.
        self._limit = self.size() if whole_lines else None
        try:
            if start:
                self._content = self._same_content(start)
            else:
                self._content = Content(self._file, path)
                self._begin(encoding)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, encoding: str) -> None:
        head = self._pread(max(map(len, _NO_TEXT)), 0)
        for mark, what in _NO_TEXT.items():
            # In other encodings two letters begin like UTF-16.
            if head.startswith(mark) and (len(mark) > 2 or encoding == "utf-8"):
                raise SourceError(f"{self.path} is {what} first")
        if head.startswith(_BOM) and encoding == "utf-8":
            self._content.add(0, _BOM)
            self.offset = len(_BOM)

    def _same_content(self, start: dict[str, Any]) -> Content:
        """Goes on behind what was read before."""
        size = self.size()
        if size < self.offset:
            raise SourceChangedError(
                f"{self.path} has {size} bytes, and the checkpoint had read {self.offset}: it shrank, so resuming "
                f"would not be exact. {_REMEDY}",
                position=self.offset,
            )
        if self._fingerprint(self.offset) != (start["head"], start["tail"]):
            raise SourceChangedError(
                f"{self.path} has other content before byte {self.offset} than when the checkpoint was taken, so "
                f"resuming would not be exact. {_REMEDY}",
                position=self.offset,
            )
        content = Content(self._file, self.path, [(0, self.offset)], start)
        end = self._end_of_last_line()
        if end:
            content.add(self.offset, end)
            self.offset += len(end)
            self._unterminated = False
        return content

    def _end_of_last_line(self) -> bytes:
        """The end of a line that was handed out without, if it has come since; empty if not.

        Raises:
            SourceChangedError: The line was continued.
        """
        following = self._pread(2, self.offset) if self._unterminated else b""
        if following.startswith(b"\n"):
            return b"\n"
        if following not in (b"", b"\r\n"):
            raise SourceChangedError(
                f"{self.path} ended with line {self.line - 1} when it was read, without a line end, and the line was "
                "continued since: its beginning was handed out as a record, so nothing exact can follow. Start over "
                "with resume_from='none', and let the file's writer finish its lines first",
                position=self.offset,
            )
        return following

    def size(self) -> int:
        """Bytes of the file now."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def has_long_lines(self) -> bool:
        """Whether a ``LongLine`` may be among the next lines."""
        return self._long_lines > 0

    def peek(self, count: int, skip: int = 0) -> list[bytes]:
        """Up to ``count`` lines behind the next ``skip`` ones, without their ends, that stay until ``take``.

        An empty list only at the end of the file; fewer also if they are long. How many depends on nothing that came
        before.
        """
        while (known := len(self._lines) - self._next + self._block_lines) < skip + count and not self._ended:
            if self._buffered > _BATCH_BYTES and known > skip:
                break
            self._fill()
        self._split_off(skip + count - len(self._lines) + self._next)
        lines = self._lines[self._next + skip : self._next + skip + count]
        if self._buffered > _BATCH_BYTES:
            fitting = bisect_right(list(accumulate(map(len, lines))), _BATCH_BYTES)
            lines = lines[: max(1, fitting)]
        return lines

    def take(self, count: int) -> None:
        """Moves behind the next ``count`` lines, which ``peek`` has shown."""
        lines = self._lines[self._next : self._next + count]
        size = sum(map(len, lines)) + len(lines)
        if self._long_lines:
            long = [line for line in lines if isinstance(line, LongLine)]
            self.offset += sum(line.size - len(line) for line in long)
            self._long_lines -= len(long)
        self._next += len(lines)
        if lines and self._next == len(self._lines):
            self._lines, self._next = [], 0
        self._move(len(lines), size)

    def block(self, count: int) -> Block | None:
        """The next ``count`` lines as they lie in the file, and some more maybe; fewer at its end, and if they are
        long. None where only ``peek`` has them."""
        if self._lines:
            return None
        while self._block_lines < count and self._buffered <= _BATCH_BYTES and not self._ended:
            self._fill()
        if self._lines or not self._block_lines:
            return None
        return Block(self._block, self._at, _BATCH_BYTES, is_end=self._ended)

    def take_block(self, lines: int, size: int) -> None:
        """Moves behind the next lines, so many and of so many bytes with their ends, which ``block`` has shown."""
        self._at += size
        self._block_lines -= lines
        self._move(lines, size)

    def _move(self, lines: int, size: int) -> None:
        self.offset += size
        self._buffered -= size
        self.line += lines
        if lines and not self._lines and not self._block_lines and self._tail_is_open and self._ended:
            self.offset -= 1
            self._unterminated = True

    def is_complete(self) -> bool:
        """At the end: that all lines were those of one file. False if it takes longer to tell: ask again.

        Raises:
            SourceChangedError: The file was written over while it was read, or its last line was continued.
        """
        self._end_of_last_line()
        return self._content.is_same()

    def _fill(self) -> None:
        # A block is no longer than the longest line, so only the first line that ends in it can be too long.
        start = self._content.end
        count = min(_READ_BYTES, self._max_line_bytes)
        if self._limit is not None:
            count = min(count, max(self._limit - start, 0))
        data = self._pread(count, start)
        self._content.forget(self.offset)
        # No position lies in the middle of a line.
        self._content.add(start, data, keep=self._long is None or b"\n" in data)
        if data:
            self._add(data)
        else:
            self._add_tail()

    def _add(self, data: bytes) -> None:
        """What was read next."""
        limit = self._max_line_bytes
        first = data.find(b"\n")
        begun = 0
        if self._long is not None:
            self._long.size += len(data) if first < 0 else first
            if first < 0:
                return
            self._add_long(self._long)
            begun = first + 1
        elif first >= 0 and len(self._rest) + first > limit:
            beginning = (self._rest + data[:first])[: self._shown_bytes]
            self._add_long(LongLine.of(beginning, len(self._rest) + first))
            begun = first + 1
        end = data.rfind(b"\n") + 1
        if end > begun:
            whole = memoryview(data)[begun:end]
            self._buffered += len(self._rest) + len(whole)
            self._block_lines += _count_lines(data) - (begun > 0)
            self._block, self._at = b"".join((memoryview(self._block)[self._at :], self._rest, whole)), 0
            self._rest = b""
        self._rest += data[max(begun, end) :]
        if len(self._rest) > limit:
            self._long, self._rest = LongLine.of(self._rest[: self._shown_bytes], len(self._rest)), b""

    def _add_long(self, line: LongLine) -> None:
        """It has lines before it, which are one by one from now on, as it is."""
        self._split_off(self._block_lines)
        self._lines.append(line)
        self._long_lines += 1
        self._buffered += len(line) + 1
        self._long, self._rest = None, b""

    def _split_off(self, count: int) -> None:
        """Makes lines of up to so many in the block."""
        if count > 0 and self._block_lines:
            lines, self._at = _split_lines(self._block, self._at, count)
            self._block_lines -= len(lines)
            self._lines = self._lines[self._next :] + lines
            self._next = 0

    def _add_tail(self) -> None:
        self._ended = True
        if not self.whole_lines:
            self._tail_is_open = bool(self._rest) or self._long is not None
            if self._long is not None:
                self._add_long(self._long)
            elif self._rest:
                # As if it had its end.
                self._add(b"\n")
        self._rest, self._long = b"", None

    def _pread(self, count: int, offset: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), count, offset)
        except OSError as error:
            raise SourceError(f"{self.path} cannot be read after byte {offset}: {error.strerror}") from error

    def position(self) -> dict[str, Plain]:
        """Offset and line of what comes next, and what shows whether the file is the same before it."""
        head, tail = self._fingerprint(self.offset)
        return {
            "offset": self.offset,
            "line": self.line,
            "head": head,
            "tail": tail,
            "unterminated": self._unterminated,
            **self._content.at(self.offset),
        }

    def _fingerprint(self, offset: int) -> tuple[bytes, bytes]:
        head = self._pread(min(offset, _FINGERPRINT_BYTES), 0)
        start = max(0, offset - _FINGERPRINT_BYTES)
        tail = self._pread(offset - start, start)
        return blake2b(head, digest_size=16).digest(), blake2b(tail, digest_size=16).digest()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
