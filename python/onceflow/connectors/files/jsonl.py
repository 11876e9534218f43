"""JSON Lines: one JSON value a line."""

from __future__ import annotations

from os import PathLike
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow.connectors.event_time import EventTimeParser
from onceflow.connectors.files.lines import MAX_RECORD_BYTES, LineReader, LongLine
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections, check_record_bytes
from onceflow.connectors.files.partitions import FileSource, Paths
from onceflow.connectors.files.parts import PartSink, PartWriter
from onceflow.connectors.files.record_times import EventTime, times_of_records
from onceflow.connectors.values import NotFiniteError, json_lines
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.sources import SourceBatch, SourceContext, SourceReader
from onceflow.types import Batch, Plain

__all__ = ["JsonLinesSink", "JsonLinesSource"]


class JsonLinesSource(FileSource):
    """JSON values, one a line; blank lines are passed over.

    Args:
        paths: A file, a pattern, or several; each file is a partition.
        event_time: Name of the member that holds the time of an object, or a function of a value that gives its time:
            ISO text (UTC without a zone) or seconds since 1970; of a function also a datetime.
        on_malformed: What to do with lines that are no JSON, have no valid time, or are too long: ``"fail"``,
            ``"skip"`` (and count them), or ``"dead_letter"``.
        max_record_bytes: The longest line that is read.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        event_time: EventTime | None = None,
        on_malformed: MalformedPolicy = "fail",
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        super().__init__(paths, event_time, on_malformed)
        self._max_record_bytes = check_record_bytes(max_record_bytes)

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        whole_lines = context.until == "caught_up"
        lines = LineReader(partition, position, "utf-8", self._max_record_bytes, whole_lines=whole_lines)
        return _JsonLinesReader(lines, self.event_time, self._policy)


class _JsonLinesReader(SourceReader):
    def __init__(self, lines: LineReader, event_time: EventTime | None, policy: MalformedPolicy) -> None:
        self._lines = lines
        self._event_time = event_time
        self._policy = policy
        self._decode = msgspec.json.Decoder().decode
        self._times = EventTimeParser()

    def read(self, max_records: int) -> SourceBatch | None:
        lines = self._lines.peek(max_records)
        if not lines and self._lines.is_complete():
            return None
        rejections = Rejections(self._policy, self._lines.path)
        try:
            if self._lines.has_long_lines:
                raise ValueError("a line that is not there as a whole")
            records = list(map(self._decode, filter(None, lines)))
            times = self._event_times(records)
        except (ValueError, TypeError, KeyError, RecursionError):
            records = self._decode_each(lines, rejections)
            times = self._event_times(records)
        first = self._lines.line - 1
        self._lines.take(len(lines))
        return SourceBatch(records, times, rejections.records, rejections.skipped, first)

    def _event_times(self, records: list[Any]) -> npt.NDArray[np.int64] | None:
        """Raises ``ValueError``, ``TypeError`` or ``KeyError`` if a record has no time."""
        name = self._event_time
        if callable(name):
            return times_of_records(name, records, self._times)
        return None if name is None else self._times.parse([record[name] for record in records])

    def _decode_each(self, lines: list[bytes], rejections: Rejections) -> list[Any]:
        records = []
        for number, line in enumerate(lines, self._lines.line):
            if isinstance(line, LongLine):
                rejections.add_long(number, line.size, line)
                continue
            if not line or line.isspace():
                continue
            try:
                record = self._decode(line)
            except RecursionError:
                rejections.add(number, "is nested too deeply", line)
                continue
            except ValueError as error:
                rejections.add(number, f"is not JSON ({error})", line)
                continue
            reason = self._why_no_time(record)
            if reason is None:
                records.append(record)
            else:
                rejections.add(number, reason, line)
        return records

    def _why_no_time(self, record: Any) -> str | None:
        name = self._event_time
        if name is None:
            return None
        if callable(name):
            try:
                times_of_records(name, [record], self._times)
            except ValueError as error:
                return f"has no event time by {error}"
            return None
        if not isinstance(record, dict) or name not in record:
            return f"has no member {name!r} for the event time"
        try:
            self._times.parse([record[name]])
        except ValueError:
            return f"has {record[name]!r} as event time {name!r}"
        return None

    def position(self) -> Plain:
        return self._lines.position()

    def close(self) -> None:
        self._lines.close()


class JsonLinesSink(PartSink):
    """Part files of JSON Lines; see ``onceflow.connectors.files``.

    Records are whatever JSON can hold; times become ISO text in UTC, bytes base64.

    Args:
        directory: Made if missing; belongs to one sink of one job.
        nan: What becomes of NaN and infinities, which JSON has not: ``"refuse"`` ends the run, ``"null"`` writes null.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    suffix = ".jsonl"

    def __init__(self, directory: str | PathLike[str], *, nan: Literal["refuse", "null"] = "refuse") -> None:
        super().__init__(directory)
        if nan not in ("refuse", "null"):
            raise ConfigurationError(f'nan={nan!r}: give "refuse" or "null"', setting="nan")
        self._nan_is_null = nan == "null"

    def writer(self) -> PartWriter:
        """See ``PartSink``."""
        return _JsonLinesWriter(self._nan_is_null)


class _JsonLinesWriter(PartWriter):
    def __init__(self, nan_is_null: bool) -> None:
        self._nan_is_null = nan_is_null

    def encode(self, records: Batch) -> bytes:
        try:
            return json_lines(records, nan_is_null=self._nan_is_null)
        except NotFiniteError as error:
            raise SinkError(
                f'JSON cannot hold a record: {error}, or let all of them become null by JsonLinesSink(..., nan="null")'
            ) from error
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise SinkError(f"JSON cannot hold a record: {error}; map it to plain values first") from error
