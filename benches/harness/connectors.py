"""A source that costs nothing, and sinks that show what a guarantee costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
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

__all__ = ["AppendSink", "CountingSink", "EndlessSource", "PacedSource", "UpsertSink"]


class EndlessSource(Source):
    """Hands out slices of records in memory, again and again, until the time is up.

    Args:
        records: A list, or ``Columns``.
        seconds: From when it is measured on.
        warm_s: Read before that, such as until files have grown to their size.
    """

    def __init__(self, records: Batch, seconds: float, warm_s: float = 0.0) -> None:
        self.records = records
        self.seconds = seconds
        self.warm_s = warm_s
        #: Since when it is measured: by the clock, in CPU time of the process, and what was handed out before.
        self.begun = self.begun_cpu = 0.0
        self.before = 0

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
        self._warm = 0.0

    def read(self, max_records: int) -> SourceBatch | None:
        now, source = time.perf_counter(), self._source
        self._warm = self._warm or now + source.warm_s
        if not source.begun and now >= self._warm:
            source.begun, source.begun_cpu, source.before = now, time.process_time(), self._position
        if source.begun and now >= source.begun + source.seconds:
            return None
        start = self._position % len(self._records)
        stop = min(start + max_records, len(self._records))
        self._position += stop - start
        if isinstance(self._records, list):
            return SourceBatch(self._records[start:stop])
        return SourceBatch(self._records.slice(start, stop))

    def position(self) -> Plain:
        return self._position


class PacedSource(Source):
    """Hands out records as they are due, each with the time at its beginning: eight bytes, little-endian.

    Args:
        fillings: What follows the time.
        rate: Records a second.
        seconds: From when ``begin`` says so; before that comes one record, and a last one has the time ``end``.
        begin: Whether it is time.
        end: Which no clock shows.
    """

    def __init__(
        self, fillings: Sequence[bytes], rate: int, seconds: float, begin: Callable[[], bool], end: int
    ) -> None:
        self.fillings = fillings
        self.rate = rate
        self.seconds = seconds
        self.begin = begin
        self.end = end
        #: Records between the first and the last one, and how long they took.
        self.sent = 0
        self.spent = 0.0

    def partitions(self) -> list[str]:
        """One."""
        return ["paced"]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return _PacedReader(self)


class _PacedReader(SourceReader):
    #: A reader that waits for the next record.
    TICK_S = 0.001

    def __init__(self, source: PacedSource) -> None:
        self._source = source
        self._position = 0
        self._start = 0.0
        self._ended = False

    def read(self, max_records: int) -> SourceBatch | None:
        source, now = self._source, time.perf_counter()
        if self._ended:
            return None
        if self._position and not self._start and source.begin():
            self._start = now
        if not self._position:
            number, stamp = 1, time.monotonic_ns()
        elif self._start and now >= self._start + source.seconds:
            self._ended, number, stamp = True, 1, source.end
            source.sent, source.spent = self._position - 1, now - self._start
        else:
            due = int((now - self._start) * source.rate) + 1 - self._position if self._start else 0
            number, stamp = min(due, max_records), time.monotonic_ns()
        if number <= 0:
            time.sleep(self.TICK_S)
            return SourceBatch([])
        first, head = self._position, stamp.to_bytes(8, "little")
        self._position += number
        fillings = source.fillings
        return SourceBatch([head + fillings[each % len(fillings)] for each in range(first, self._position)])

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
