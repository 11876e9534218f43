"""Records of CSV in lines of a file: where each ends, and its fields.

Python's csv module says where a record ends: it asks for a further line where a quoted field is open. A record that it
cannot read is refused by its first line, and reading goes on at the next one, so a quote that is never closed costs
one line, and no more than ``max_record_bytes`` are looked at for its end.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from onceflow.connectors.files.lines import LineReader, LongLine
from onceflow.exceptions import SourceChangedError

if TYPE_CHECKING:
    from _csv import Reader

__all__ = ["CsvRecord", "CsvRecords"]

_LINES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class CsvRecord:
    """One record.

    Attributes:
        line: Number of its first line.
        data: Its bytes; of a record that cannot be read those of its first line.
        fields: Empty for a blank line.
        reason: Why it cannot be read; None if it can.
    """

    line: int
    data: bytes
    fields: list[str]
    reason: str | None = None


class CsvRecords:
    """Reads the records of one file.

    Args:
        lines: The file.
        delimiter: One character.
        encoding: As ``check_encoding`` names it.
        max_record_bytes: Longer records are refused.
    """

    def __init__(self, lines: LineReader, delimiter: str, encoding: str, max_record_bytes: int) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._encoding = encoding
        self._max_bytes = max_record_bytes
        #: Set when a record was refused because the file ended inside a quoted field: the size of the file then.
        self.open_quote_at: int | None = None
        # The module's own limit, which is one for the whole process, must not refuse what is allowed here.
        csv.field_size_limit(max(csv.field_size_limit(), max_record_bytes))

    def check_open_quote(self) -> None:
        """Raises ``SourceChangedError`` if the file has grown since it ended inside a quoted field."""
        if self.open_quote_at not in (None, self._lines.size()):
            raise SourceChangedError(
                f"{self._lines.path} ended inside a quoted field when it was read, and has grown since: rows were cut "
                "for good at its end, so nothing exact can follow. Start over with fresh=True, and let the file's "
                "writer finish its rows first"
            )

    def peek_all(self, count: int) -> tuple[list[list[str]], int] | None:
        """The fields of the records that begin in the next ``count`` lines, in one go, and their lines, to be taken.

        Nothing at the end of the file. None if one of them cannot be read: then ``read_each`` says which.
        """
        lines = self._lines.peek(count)
        if not lines or self._lines.has_long_lines:
            return None if lines else ([], 0)
        data = b"\n".join(lines)
        try:
            texts = data.decode(self._encoding).split("\n")
            if b'"' not in data:
                return list(self._reader(iter(texts))), len(lines)
            rows = []
            taken = 0
            reader = self._reader(chain([f"{text}\n" for text in texts], self._further(len(lines))))
            while taken < len(lines):
                rows.append(next(reader))
                first, taken = taken, reader.line_num
                if taken - first > 1 and self._size(first, taken) > self._max_bytes:
                    return None
        except (UnicodeDecodeError, csv.Error):
            return None
        return rows, taken

    def _further(self, known: int) -> Iterator[str]:
        """Lines behind the first ``known`` ones, for a record that begins in these."""
        size = 0
        while lines := self._lines.peek(_LINES_AT_ONCE, skip=known):
            known += len(lines)
            for line in lines:
                size += len(line) + 1
                if size > self._max_bytes or isinstance(line, LongLine):
                    raise csv.Error("too long, as it seems from here")
                yield line.decode(self._encoding) + "\n"

    def _size(self, first: int, stop: int) -> int:
        size = 0
        while first < stop:
            lines = self._lines.peek(stop - first, skip=first)
            size += sum(map(len, lines)) + len(lines)
            first += len(lines)
        return size

    def read_each(self, count: int) -> list[CsvRecord]:
        """The records that begin in the next ``count`` lines, one by one."""
        records: list[CsvRecord] = []
        stop = self._lines.line + len(self._lines.peek(count))
        while self._lines.line < stop:
            records.append(self._read_one())
        return records

    def _read_one(self) -> CsvRecord:
        number, data = self._lines.line, self._lines.peek(1)[0]
        if isinstance(data, LongLine):
            self._lines.take(1)
            return CsvRecord(number, data, [], f"has {data.size} bytes, more than max_record_bytes allows")
        used: list[bytes] = []
        fields: list[str] = []
        try:
            fields = next(self._reader(self._one_by_one(used)))
            data = b"\n".join(used)
            data.decode(self._encoding)
            reason = None
        except csv.Error as error:
            used = used[:1]
            reason = f"is no CSV ({error})"
        except UnicodeDecodeError as error:
            reason = f"is not {self._encoding} ({error.reason})"
        self._lines.take(len(used))
        return CsvRecord(number, data, fields, reason)

    def _one_by_one(self, used: list[bytes]) -> Iterator[str]:
        size = 0
        while lines := self._lines.peek(_LINES_AT_ONCE, skip=len(used)):
            for line in lines:
                size += len(line) + 1
                if used and (size > self._max_bytes or isinstance(line, LongLine)):
                    raise csv.Error(f"a quoted field has no end within max_record_bytes={self._max_bytes}")
                used.append(line)
                # Refused later if it does not decode; here only the quotes matter.
                yield line.decode(self._encoding, "backslashreplace") + "\n"
        self.open_quote_at = self._lines.size()

    def _reader(self, texts: Iterator[str]) -> Reader:
        return csv.reader(texts, delimiter=self._delimiter, strict=True)
