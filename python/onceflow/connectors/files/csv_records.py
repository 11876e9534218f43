"""Records of CSV in lines of a file: where each ends, and its fields.

Python's csv module says where a record ends: it asks for a further line where a quoted field is open. A record that it
cannot read is refused by its first line, and reading goes on at the next one, so a quote that is never closed costs
one line, and no more than ``max_record_bytes`` are looked at for its end. Where a file may grow, a quoted field that is
open at its end is one that is still being written.

Many lines are read in one go. Where that fails they are read in sixteen parts, and those parts that fail in sixteen
again: with one bad line in a thousand it takes a third longer, where line by line it took three times as long.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from onceflow.connectors.files.lines import LineReader, LongLine
from onceflow.exceptions import SourceChangedError

if TYPE_CHECKING:
    from _csv import Reader

__all__ = ["PARTS", "CsvRecords", "CsvRows"]

#: Into how many parts lines are cut among which one is bad.
PARTS = 16
_LINES_AT_ONCE = 64


@dataclass(slots=True)
class CsvRows:
    """Records that follow one another.

    Attributes:
        fields: Of each; empty for a blank line, and for one that cannot be read.
        first: The line that the first one begins with, from 0 on.
        lines: How many lines there are up to the end of the last one, to be taken.
        further: How many lines those have behind their first one that have any, by their numbers.
        refused: Why those that cannot be read cannot, by their numbers.
    """

    fields: list[list[str]] = field(default_factory=list)
    first: int = 0
    lines: int = 0
    further: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def starts(self) -> Sequence[int]:
        """The line that each begins with, from 0 on, and the one behind the last."""
        if not self.further:
            return range(self.first, self.lines + 1)
        lines = (1 + self.further.get(number, 0) for number in range(len(self.fields)))
        return list(accumulate(lines, initial=self.first))


class _UnfinishedError(Exception):
    """The file ends within a record, for now."""


class CsvRecords:
    """Reads the records of one file.

    Args:
        lines: The file; what is read of it is for the caller to take.
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
                "for good at its end, so nothing exact can follow. Start over with resume_from='none', and let the "
                "file's writer finish its rows first",
                position=self.open_quote_at,
            )

    def peek(self, count: int, skip: int = 0) -> CsvRows:
        """The records that begin in ``count`` lines behind the next ``skip`` ones; none at the end of the file."""
        rows = CsvRows(first=skip, lines=skip)
        count = len(self._lines.peek(count, skip))
        # One that is still being written is left where it is.
        with suppress(_UnfinishedError):
            self._peek_parts(rows, skip + count, count)
        return rows

    def data(self, start: int, stop: int) -> bytes:
        """The lines from ``start`` to ``stop``, counted from the next one."""
        return b"\n".join(chain.from_iterable(self._blocks(start, stop)))

    def _peek_parts(self, rows: CsvRows, stop: int, part: int) -> None:
        """Adds the records that begin before line ``stop``, so many lines in one go where that is possible."""
        while rows.lines < stop:
            count = min(part, stop - rows.lines)
            if self._peek_all(rows, count):
                continue
            if count == 1:
                self._peek_one(rows)
            else:
                self._peek_parts(rows, rows.lines + count, -(-count // PARTS))

    def _peek_all(self, rows: CsvRows, count: int) -> bool:
        """Adds the records that begin in ``count`` lines; false, and nothing added, if one of them cannot be read."""
        first = rows.lines
        lines = self._lines.peek(count, skip=first)
        if self._lines.has_long_lines and any(isinstance(line, LongLine) for line in lines):
            return False
        try:
            texts = b"\n".join(lines).decode(self._encoding).split("\n")
            fields = list(self._reader(iter(texts)))
        except UnicodeDecodeError:
            return False
        except csv.Error:
            # Also where the last record goes on in a line that was not asked for.
            fields = []
        if len(fields) != len(lines):
            return any('"' in text for text in texts) and self._peek_quoted(rows, texts)
        rows.fields = [*rows.fields, *fields] if rows.fields else fields
        rows.lines += len(lines)
        return True

    def _peek_quoted(self, rows: CsvRows, texts: list[str]) -> bool:
        """The same for lines among which records may have several."""
        first, stop = rows.lines, rows.lines + len(texts)
        fields: list[list[str]] = []
        further: dict[int, int] = {}
        taken = first
        reader = self._reader(chain([f"{text}\n" for text in texts], self._following(stop)))
        try:
            while taken < stop:
                fields.append(next(reader))
                start, taken = taken, first + reader.line_num
                if taken - start > 1:
                    if self.size(start, taken) > self._max_bytes:
                        return False
                    further[len(rows.fields) + len(fields) - 1] = taken - start - 1
        except (UnicodeDecodeError, csv.Error):
            return False
        rows.fields = [*rows.fields, *fields]
        rows.lines = taken
        rows.further |= further
        return True

    def _following(self, known: int) -> Iterator[str]:
        """Lines behind the first ``known`` ones, for a record that begins in these."""
        size = 0
        while lines := self._lines.peek(_LINES_AT_ONCE, skip=known):
            known += len(lines)
            for line in lines:
                size += len(line) + 1
                if size > self._max_bytes or isinstance(line, LongLine):
                    raise csv.Error("too long, as it seems from here")
                yield line.decode(self._encoding) + "\n"

    def size(self, start: int, stop: int) -> int:
        """Bytes of the lines from ``start`` to ``stop``, with their ends."""
        return sum(len(line) + 1 for lines in self._blocks(start, stop) for line in lines)

    def _blocks(self, start: int, stop: int) -> Iterator[list[bytes]]:
        while start < stop:
            lines = self._lines.peek(stop - start, skip=start)
            yield lines
            start += len(lines)

    def _peek_one(self, rows: CsvRows) -> None:
        """Adds a record, or why it cannot be read."""
        (data,) = self._lines.peek(1, skip=rows.lines)
        reason = None
        used: list[bytes] = []
        fields: list[str] = []
        if isinstance(data, LongLine):
            reason = f"has {data.size} bytes, more than max_record_bytes allows"
            used = [data]
        else:
            try:
                fields = next(self._reader(self._one_by_one(used, rows.lines)))
                b"\n".join(used).decode(self._encoding)
            except csv.Error as error:
                used = used[:1]
                reason = f"is not CSV ({error})"
            except UnicodeDecodeError as error:
                fields = []
                reason = f"is not {self._encoding} ({error.reason})"
        if len(used) > 1:
            rows.further[len(rows.fields)] = len(used) - 1
        if reason is not None:
            rows.refused[len(rows.fields)] = reason
        rows.fields.append(fields)
        rows.lines += len(used)

    def _one_by_one(self, used: list[bytes], start: int) -> Iterator[str]:
        size = 0
        while lines := self._lines.peek(_LINES_AT_ONCE, skip=start + len(used)):
            for line in lines:
                size += len(line) + 1
                if used and (size > self._max_bytes or isinstance(line, LongLine)):
                    raise csv.Error(f"a quoted field has no end within max_record_bytes={self._max_bytes}")
                used.append(line)
                # Refused later if it does not decode; here only the quotes matter.
                yield line.decode(self._encoding, "backslashreplace") + "\n"
        if self._lines.whole_lines:
            raise _UnfinishedError
        self.open_quote_at = self._lines.size()

    def _reader(self, texts: Iterator[str]) -> Reader:
        return csv.reader(texts, delimiter=self._delimiter, strict=True)
