"""Text files, a record a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow.connectors.event_time import EventTimeParser
from onceflow.connectors.files.lines import MAX_RECORD_BYTES, LineReader, LongLine, check_encoding
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections, check_record_bytes
from onceflow.connectors.files.partitions import FileSource, Paths
from onceflow.connectors.files.record_times import times_of_records
from onceflow.exceptions import ConfigurationError
from onceflow.sources import SourceBatch, SourceContext, SourceReader
from onceflow.types import Plain

__all__ = ["TextSource"]


class TextSource(FileSource):
    """Lines of text, without their ends.

    Args:
        paths: A file, a pattern, or several; each file is a partition.
        event_time: A function of a line that gives its time: ISO text (UTC without a zone), a datetime, or seconds
            since 1970.
        encoding: Of the text; an ASCII superset such as utf-8 or latin-1. A byte order mark is passed over in utf-8.
        on_malformed: What to do with lines that do not decode, have no valid time, or are too long: ``"fail"``,
            ``"skip"`` (and count them), or ``"dead_letter"``.
        max_record_bytes: The longest line that is read.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        event_time: Callable[[str], Any] | None = None,
        encoding: str = "utf-8",
        on_malformed: MalformedPolicy = "fail",
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        if event_time is not None and not callable(event_time):
            raise ConfigurationError(f"event_time={event_time!r}: give a function of a line", setting="event_time")
        super().__init__(paths, event_time, on_malformed)
        self._encoding = check_encoding(encoding)
        self._max_record_bytes = check_record_bytes(max_record_bytes)
        self._time_of = event_time

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        whole_lines = context.until == "caught_up"
        lines = LineReader(partition, position, self._encoding, self._max_record_bytes, whole_lines=whole_lines)
        return _TextReader(lines, self._encoding, self._policy, self._time_of)


class _TextReader(SourceReader):
    def __init__(
        self, lines: LineReader, encoding: str, policy: MalformedPolicy, event_time: Callable[[str], Any] | None
    ) -> None:
        self._lines = lines
        self._encoding = encoding
        self._policy = policy
        self._event_time = event_time
        self._times = EventTimeParser()

    def read(self, max_records: int) -> SourceBatch | None:
        lines = self._lines.peek(max_records)
        if not lines and self._lines.is_complete():
            return None
        rejections = Rejections(self._policy, self._lines.path)
        records = None if self._lines.has_long_lines or not lines else self._decode_all(lines)
        try:
            times = None if records is None else self._event_times(records)
        except ValueError:
            records = None
        if records is None:
            records = self._decode_each(lines, rejections)
            times = self._event_times(records)
        first = self._lines.line - 1
        self._lines.take(len(lines))
        return SourceBatch(records, times, rejections.records, rejections.skipped, first)

    def _decode_all(self, lines: list[bytes]) -> list[str] | None:
        try:
            text = b"\n".join(lines).decode(self._encoding)
        except UnicodeDecodeError:
            return None
        records = text.split("\n")
        return [record.removesuffix("\r") for record in records] if "\r" in text else records

    def _decode_each(self, lines: list[bytes], rejections: Rejections) -> list[str]:
        records = []
        for number, line in enumerate(lines, self._lines.line):
            if isinstance(line, LongLine):
                rejections.add_long(number, line.size, line)
                continue
            try:
                record = line.decode(self._encoding).removesuffix("\r")
                self._event_times([record])
            except UnicodeDecodeError as error:
                rejections.add(number, f"is not {self._encoding} ({error.reason})", line)
            except ValueError as error:
                rejections.add(number, f"has no event time by {error}", line)
            else:
                records.append(record)
        return records

    def _event_times(self, records: list[str]) -> npt.NDArray[np.int64] | None:
        """Raises ``ValueError`` if a record has no time."""
        if self._event_time is None:
            return None
        return times_of_records(self._event_time, records, self._times)

    def position(self) -> Plain:
        return self._lines.position()

    def close(self) -> None:
        self._lines.close()
