"""JSON Lines: one JSON value a line."""

from __future__ import annotations

from os import PathLike
from typing import Any

import msgspec
import numpy as np

from onceflow.columns import Columns
from onceflow.connectors.files.event_time import EventTimeParser
from onceflow.connectors.files.lines import LineReader
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections, check_policy
from onceflow.connectors.files.partitions import Paths, partitions_of
from onceflow.connectors.files.parts import PartSink, PartWriter, plain_columns
from onceflow.exceptions import SinkError
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.types import Batch, Plain

__all__ = ["JsonLinesSink", "JsonLinesSource"]


class JsonLinesSource(Source):
    """JSON values, one a line; blank lines are passed over.

    Args:
        paths: A file, a pattern, or several; each file is a partition.
        event_time: Name of the member that holds the time of an object: ISO text or seconds since 1970.
        on_malformed: What to do with lines that are no JSON, or have no valid time.
    """

    def __init__(self, paths: Paths, *, event_time: str | None = None, on_malformed: str = "fail") -> None:
        self._paths = paths
        self._event_time = event_time
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self.has_event_time = event_time is not None
        self.has_dead_letters = self._policy == "dead_letter"

    def partitions(self) -> list[str]:
        """The files."""
        return partitions_of(self._paths)

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return _JsonLinesReader(partition, position, self._event_time, self._policy)

    def describe(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"type": "JsonLinesSource", "paths": self._paths}


class _JsonLinesReader(SourceReader):
    def __init__(self, partition: str, position: Plain, event_time: str | None, policy: MalformedPolicy) -> None:
        self._lines = LineReader(partition, position)
        self._event_time = event_time
        self._policy = policy
        self._decode = msgspec.json.Decoder().decode
        self._times = EventTimeParser()

    def read(self, max_records: int) -> SourceBatch | None:
        first = self._lines.line
        lines = self._lines.read(max_records)
        if not lines:
            return None
        rejections = Rejections(self._policy, self._lines.path)
        records: list[Any] = []
        times: list[int] = []
        for number, line in enumerate(lines, first):
            if not line or line.isspace():
                continue
            try:
                record = self._decode(line)
                if self._event_time is not None:
                    times.append(int(self._times.parse([record[self._event_time]])[0]))
                records.append(record)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                rejections.add(number, f"is no JSON ({error})", line)
            except (KeyError, TypeError, ValueError):
                rejections.add(number, f"has no time in {self._event_time!r}", line)
        event_times = None if self._event_time is None else np.array(times, np.int64)
        return SourceBatch(records, event_times, rejections.records, rejections.skipped, first - 1)

    def position(self) -> Plain:
        return self._lines.position()

    def close(self) -> None:
        self._lines.close()


class JsonLinesSink(PartSink):
    """Part files of JSON Lines; see ``onceflow.connectors.files``.

    Args:
        directory: Made if missing; belongs to one sink of one job.
    """

    suffix = ".jsonl"

    def __init__(self, directory: str | PathLike[str]) -> None:
        super().__init__(directory)

    def writer(self) -> PartWriter:
        """See ``PartSink``."""
        return _JsonLinesWriter()


class _JsonLinesWriter(PartWriter):
    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode_lines

    def encode(self, records: Batch) -> bytes:
        if isinstance(records, Columns):
            records = plain_columns(records).to_rows()
        try:
            return self._encode(records)
        except (TypeError, ValueError, OverflowError) as error:
            raise SinkError(f"JSON cannot hold a record: {error}; map it to plain values first") from error
