"""A source that costs nothing, and sinks that show what a guarantee costs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onceflow.connectors.files import CsvSink
from onceflow.sinks import (
    Committable,
    IdempotentSink,
    PlainSink,
    SinkContext,
    SinkWriter,
    TransactionalSink,
    TransactionalSinkWriter,
)
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.types import Batch, Plain

__all__ = ["AppendSink", "CountingSink", "EndlessSource", "UpsertSink"]


class EndlessSource(Source):
    """Hands out slices of records in memory, again and again, until the time is up.

    Args:
        records: A list, or ``Columns``.
        seconds: From the first read on.
    """

    def __init__(self, records: Batch, seconds: float) -> None:
        self.records = records
        self.seconds = seconds
        #: When the first read was: by the clock, and in CPU time of the process.
        self.begun = self.begun_cpu = 0.0

    def partitions(self) -> list[str]:
        """One."""
        return ["memory"]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return _EndlessReader(self, position if isinstance(position, int) else 0)


class _EndlessReader(SourceReader):
    def __init__(self, source: EndlessSource, position: int) -> None:
        self._source = source
        self._records = source.records
        self._position = position
        self._end = 0.0

    def read(self, max_records: int) -> SourceBatch | None:
        now = time.perf_counter()
        if not self._end:
            self._source.begun, self._source.begun_cpu = now, time.process_time()
            self._end = now + self._source.seconds
        if now >= self._end:
            return None
        start = self._position % len(self._records)
        stop = min(start + max_records, len(self._records))
        self._position += stop - start
        if isinstance(self._records, list):
            return SourceBatch(self._records[start:stop])
        return SourceBatch(self._records.slice(start, stop))

    def position(self) -> Plain:
        return self._position


class CountingSink(TransactionalSink):
    """Encodes, if asked to, and drops what it was given: everything but the writing.

    Args:
        columns: Encode as CSV of these columns; None: do not even look at the records.
    """

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self.columns = columns

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        return _CountingWriter(self.columns)


class _CountingWriter(TransactionalSinkWriter):
    def __init__(self, columns: Sequence[str] | None) -> None:
        self._encode = None if columns is None else _csv(columns)
        self._count = 0

    def recover(self, decided: Sequence[Committable]) -> None:
        pass

    def write(self, records: Batch) -> None:
        if self._encode is not None:
            self._encode(records)
        self._count += len(records)

    def seal(self, checkpoint_id: int) -> Any | None:
        count, self._count = self._count, 0
        return count or None

    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        return int(sealed)

    def commit(self, committable: Committable) -> None:
        pass

    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        pass


class AppendSink(PlainSink):
    """Appends CSV to a file, which cannot be taken back; synced by ``flush``."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = columns

    def open(self, context: SinkContext) -> SinkWriter:
        """See ``Sink``."""
        return _Appender(self._path, self._columns)


class UpsertSink(IdempotentSink):
    """The same file, read so that the last line of a key counts: repeating lines in their order changes nothing."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = columns

    def open(self, context: SinkContext) -> SinkWriter:
        """See ``Sink``."""
        return _Appender(self._path, self._columns)


class _Appender(SinkWriter):
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = path.open("ab")
        self._encode = _csv(columns)

    def write(self, records: Batch) -> None:
        self._file.write(self._encode(records))

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _csv(columns: Sequence[str]) -> Any:
    """The encoder of onceflow's own CSV sink, so that all write the same bytes at the same cost."""
    return CsvSink(".", columns=columns).writer().encode
