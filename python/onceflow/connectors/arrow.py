"""Data frames, tables and results with the Arrow PyCapsule interface as a source (extra ``arrow``).

What polars, pandas, pyarrow, duckdb and others have in memory is handed out in columns. A position is a row and a
digest of the whole content, so that a run is not resumed over other rows than those that it began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np

from onceflow.columns import Columns
from onceflow.connectors.files.arrow import require_arrow
from onceflow.connectors.files.malformed import MalformedPolicy, check_policy
from onceflow.connectors.files.names import check_names
from onceflow.connectors.files.record_times import EventTime, check_event_time
from onceflow.connectors.timed import TimedBatches
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.types import Plain

__all__ = ["ArrowSource"]

#: Its only partition.
_PARTITION = "0"
#: Rows that go into the digest at a time: where chunks end is no part of the content.
_BLOCK = 1 << 16


class ArrowSource(Source):
    """Rows of what is in memory, as columns; one partition.

    Args:
        data: What has the Arrow PyCapsule interface (``__arrow_c_stream__`` or ``__arrow_c_array__``): a polars, pandas
            or pyarrow frame, a duckdb result. A stream is read into memory at once. It must not change while the job
            runs, and be the same where the job is resumed: give a query an order.
        event_time: Column that holds the time of a row: a timestamp, a date, or seconds since 1970. Or a function that
            gives an int64 array of microseconds since 1970 for a batch of columns.
        columns: The columns to hand out; all by default.
        on_malformed: What to do with rows that have no valid event time: ``"fail"``, ``"skip"`` (and count them), or
            ``"dead_letter"``.

    Raises:
        ConfigurationError: Settings that cannot be; pyarrow is missing.
    """

    #: Its digest says what is in it: one that has grown is another one.
    grows: ClassVar[bool] = False

    def __init__(
        self,
        data: Any,
        *,
        event_time: EventTime | None = None,
        columns: Sequence[str] | None = None,
        on_malformed: MalformedPolicy = "fail",
    ) -> None:
        self._kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__qualname__}"
        self._event_time = check_event_time(event_time)
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self._table = _table(data)
        names = self._table.schema.names
        if len(set(names)) != len(names):
            raise ConfigurationError(f"ArrowSource: a column is named twice: {names}")
        self._columns = names if columns is None else check_names("columns", columns)
        wanted = {*self._columns, *([event_time] if isinstance(event_time, str) else [])}
        if missing := sorted(wanted - set(names)):
            raise ConfigurationError(f"ArrowSource: the data has no column {missing}; it has {names}")
        self._digest: bytes | None = None
        self.has_event_time = event_time is not None
        self.deterministic = not callable(event_time)
        self.has_dead_letters = self._policy == "dead_letter"

    def partitions(self) -> list[str]:
        """One."""
        return [_PARTITION]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        start = position or {"row": 0}
        row = start.get("row") if isinstance(start, dict) else None
        if not isinstance(start, dict) or not isinstance(row, int):
            raise SourceError(f"{position!r} is not a position in a table; start over with resume_from='none'")
        if self._digest is None:
            self._digest = _digest(self._table)
        if start.get("data", self._digest) != self._digest:
            raise SourceChangedError(
                f"the data ({self._kind}) is not what it was when the checkpoint was taken, so resuming would not be "
                "exact: give the same rows in the same order, such as by a query with ORDER BY; or start over with "
                "resume_from='none'",
                position=row,
            )
        timed = TimedBatches(self._event_time, self._policy, partition)
        return _TableReader(self._table, self._columns, row, self._digest, timed)


class _TableReader(SourceReader):
    def __init__(self, table: Any, columns: list[str], row: int, digest: bytes, timed: TimedBatches) -> None:
        self._table = table
        self._columns = columns
        self._row = row
        self._digest = digest
        self._timed = timed

    def read(self, max_records: int) -> SourceBatch | None:
        if self._row >= self._table.num_rows:
            return None
        part, first = self._table.slice(self._row, max_records), self._row
        self._row += part.num_rows
        batch = self._timed.batch(Columns({name: part.column(name) for name in part.schema.names}), first)
        if isinstance(batch.records, Columns) and len(self._columns) < len(batch.records.names):
            batch.records = batch.records.select(*self._columns)
        return batch

    def position(self) -> Plain:
        return {"row": self._row, "data": self._digest}


def _table(data: Any) -> Any:
    """A ``pyarrow.Table`` of it."""
    pa = require_arrow()
    if not hasattr(data, "__arrow_c_stream__") and not hasattr(data, "__arrow_c_array__"):
        raise ConfigurationError(
            f"ArrowSource: data is a {type(data).__name__}: give what has the Arrow PyCapsule interface, such as a "
            "polars, pandas or pyarrow table",
            setting="data",
        )
    try:
        if isinstance(data, pa.Table):
            table = data
        elif hasattr(data, "__arrow_c_stream__"):
            table = pa.RecordBatchReader.from_stream(data).read_all()
        else:
            table = pa.Table.from_batches([pa.record_batch(data)])
        return pa.table([_plain(column) for column in table.columns], names=table.schema.names)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"ArrowSource: {type(data).__name__} cannot be read as a table: {error}; give a frame or a struct, not a "
            "single column"
        ) from error


def _digest(table: Any) -> bytes:
    """Of names, types and values, whatever chunks and buffers they lie in."""
    pa = require_arrow()
    digest = blake2b(repr([(field.name, str(field.type)) for field in table.schema]).encode(), digest_size=16)
    for start in range(0, table.num_rows, _BLOCK):
        block = table.slice(start, _BLOCK)
        # A copy of what is there: what lies in a buffer beside it, or where a value is missing, is not.
        rows = pa.array(np.arange(block.num_rows))
        columns = [column.combine_chunks().take(rows) for column in block.columns]
        digest.update(pa.table(columns, names=table.schema.names).combine_chunks().to_batches()[0].serialize())
    return digest.digest()


def _plain(column: Any) -> Any:
    """A column without views and dictionaries, which few functions of Arrow know."""
    pa = require_arrow()
    return pa.chunked_array([_plain_chunk(chunk) for chunk in column.chunks], _plain_type(column.type))


def _plain_chunk(array: Any) -> Any:
    pa = require_arrow()
    if pa.types.is_dictionary(array.type):
        return _plain_chunk(array.dictionary).take(array.indices)
    return array.cast(_plain_type(array.type))


def _plain_type(kind: Any) -> Any:
    pa = require_arrow()
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_type(kind.value_type))
    if pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    return {"string_view": pa.large_string(), "binary_view": pa.large_binary()}.get(str(kind), kind)
