"""Whether a file still holds what was read from it.

A position has the CRC-32 of all bytes that were read before it. To compute it anew when a job resumes, all of them must
be read again, of files that are complete as well. So it has the file's stamp too: while size, inode and times stay,
nobody has written to the file. A further change within the clock tick of the last one would show no other times: stamps
of files that were written to just before they were opened are not kept.

While a file is read, its stamp is looked at with each block. If it changes, the newest bytes are compared, and at the
end everything: a file that has grown is as good as before, one that was written over is not.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, BinaryIO, NoReturn

from onceflow._native import _crc32
from onceflow.exceptions import SourceChangedError
from onceflow.types import Plain

__all__ = ["Content"]

# File systems count time in steps of 1 ns to 2 s.
_SETTLED_NS = 2_000_000_000
_STEP_BYTES = 1 << 20
# Compared at the end in one go: some hundredths of a second, since other partitions wait.
_SLICE_BYTES = 64 << 20


class Content:
    """The bytes of a file that were read so far.

    Args:
        file: The file.
        path: Its name, for errors.
        ranges: What an earlier run had read of it, in order: offsets of beginnings and ends.
        kept: What ``at`` returned then; None for a new beginning.

    Raises:
        SourceChangedError: There are other bytes now.
    """

    def __init__(
        self, file: BinaryIO, path: str, ranges: Sequence[tuple[int, int]] = (), kept: dict[str, Any] | None = None
    ) -> None:
        self._file = file
        self._path = path
        self._ranges = list(ranges)
        self._opened = self._seen = _stamp(file)
        #: The newest blocks: offset, checksum of what was read before, bytes.
        self._blocks: deque[tuple[int, int, bytes]] = deque()
        #: How far a comparison at the end has come: number of the range, offset, checksum.
        self._compared = (0, 0, 0)
        # Positions of an earlier version have no checksum.
        known: int | None = None if kept is None else kept.get("crc")
        self._stamp = self._opened if time.time_ns() - max(self._opened[2:]) > _SETTLED_NS else None
        if known is not None and kept is not None and self._stamp == kept["stamp"] is not None:
            self._crc = known
            return
        self._crc = 0
        for start, stop in self._ranges:
            self._crc = _checksum(file, start, stop, self._crc)
        if known is not None and known != self._crc:
            raise SourceChangedError(
                f"{path} has other content before byte {self.end} than when the checkpoint was taken, so resuming "
                "would not be exact. Put the file back, or start over with resume_from='none'",
                partition=str(path),
                position=self.end,
            )

    @property
    def end(self) -> int:
        """Offset behind what was read last."""
        return self._ranges[-1][1] if self._ranges else 0

    def add(self, offset: int, data: bytes, *, keep: bool = False) -> None:
        """These bytes were read.

        Args:
            offset: Where they begin.
            data: The bytes.
            keep: They are compared when the stamp has changed, and ``at`` may be asked for a place among them.

        Raises:
            SourceChangedError: The file was written over since it was opened.
        """
        now = _stamp(self._file)
        if now != self._seen:
            for start, _, block in self._blocks:
                if os.pread(self._file.fileno(), len(block), start) != block:
                    self._refuse(start)
            self._seen = now
        if keep:
            self._blocks.append((offset, self._crc, data))
        if self._ranges and self.end == offset:
            self._ranges[-1] = (self._ranges[-1][0], offset + len(data))
        else:
            self._ranges.append((offset, offset + len(data)))
        self._crc = _crc32(data, self._crc)

    def keep(self, offset: int, data: bytes) -> None:
        """These bytes, which were read before, are compared when the stamp has changed."""
        self._blocks.append((offset, self._crc, data))

    def forget(self, offset: int) -> None:
        """``at`` will be asked for no place before this one any more."""
        while len(self._blocks) > 1 and self._blocks[1][0] <= offset:
            self._blocks.popleft()

    def at(self, offset: int | None = None) -> dict[str, Plain]:
        """What a position keeps: of everything that was read, or up to an offset in a block that was kept."""
        crc = self._crc
        if offset is not None and offset != self.end:
            self.forget(offset)
            start, crc, block = self._blocks[0]
            crc = _crc32(block[: offset - start], crc)
        # The stamp as it was when the file was opened: if it is another one by now, a resumed run compares everything.
        return {"crc": crc, "stamp": None if self._stamp is None else [*self._stamp]}

    def is_same(self) -> bool:
        """At the end: that all bytes were those of one file. False if it takes longer to tell: ask again.

        Raises:
            SourceChangedError: The file was written over since it was opened.
        """
        now = _stamp(self._file)
        if now == self._opened:
            return True
        number, offset, crc = self._compared
        left = _SLICE_BYTES
        while number < len(self._ranges) and left > 0:
            start, stop = self._ranges[number]
            offset = max(start, offset)
            upto = min(stop, offset + left)
            crc = _checksum(self._file, offset, upto, crc)
            left -= upto - offset
            number, offset = (number + 1, 0) if upto == stop else (number, upto)
        self._compared = (number, offset, crc)
        if number < len(self._ranges):
            return False
        self._compared = (0, 0, 0)
        if crc != self._crc:
            self._refuse(self.end)
        self._opened = now
        return True

    def _refuse(self, offset: int) -> NoReturn:
        size, read = _stamp(self._file)[0], max(stop for _, stop in self._ranges)
        if size < read:
            raise SourceChangedError(
                f"{self._path} shrank from {read} to {size} bytes while it was read. Put the file back, or start "
                "over with resume_from='none'",
                partition=str(self._path),
                position=read,
            )
        raise SourceChangedError(
            f"{self._path} was written over while it was read: before byte {offset + 1} it has other content than was "
            "read, so no result would be exact. Start over with resume_from='none', and let nobody change the file but "
            "by adding to its end",
            partition=str(self._path),
            position=offset + 1,
        )


def _stamp(file: BinaryIO) -> list[int]:
    """Size, inode, and the times of the last change of content and of inode."""
    found = os.fstat(file.fileno())
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _checksum(file: BinaryIO, start: int, stop: int, value: int) -> int:
    """The CRC-32 of these bytes, or of those that are there."""
    while start < stop and (data := os.pread(file.fileno(), min(_STEP_BYTES, stop - start), start)):
        value = _crc32(data, value)
        start += len(data)
    return value
