"""Parquet and Arrow IPC files (extra ``arrow``)."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from os import PathLike
from types import ModuleType
from typing import Any

import numpy as np

from onceflow.columns import Columns
from onceflow.connectors.files.partitions import Paths, partitions_of, readable_file
from onceflow.connectors.files.parts import PartSink, PartWriter
from onceflow.exceptions import ConfigurationError, SinkError, SourceChangedError, SourceError
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.types import Batch, Plain

__all__ = ["ArrowIpcSource", "ParquetSink", "ParquetSource", "require_arrow"]

_FINGERPRINT_BYTES = 4096


def require_arrow() -> ModuleType:
    """pyarrow, or an error that names the extra."""
    try:
        import pyarrow  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError("Arrow and Parquet need pyarrow: pip install 'onceflow[arrow]'") from error
    module: ModuleType = pyarrow
    return module


class _ArrowFileSource(Source):
    """Batches of columns of a file that is complete: a position is a row, and the file's fingerprint.

    Args:
        paths: A file, a pattern, or several; each file is a partition.
        event_time: Column that holds the time of a row: a timestamp, or seconds since 1970.
        columns: The columns to hand out; all by default.
    """

    def __init__(self, paths: Paths, *, event_time: str | None = None, columns: Sequence[str] | None = None) -> None:
        self._paths = paths
        self._event_time = event_time
        self._columns = None if columns is None else list(columns)
        self.has_event_time = event_time is not None

    def partitions(self) -> list[str]:
        """The files."""
        return partitions_of(self._paths)

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        require_arrow()
        return _TableReader(self._load(partition), partition, position, self._event_time, self._columns)

    def describe(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"type": type(self).__name__, "paths": self._paths}

    @abstractmethod
    def _load(self, path: str) -> Any:
        """The file as a ``pyarrow.Table`` over mapped memory."""


class ParquetSource(_ArrowFileSource):
    """Rows of Parquet files as columns; see the base class for arguments."""

    def _load(self, path: str) -> Any:
        pq = __import__("pyarrow.parquet").parquet
        try:
            return pq.read_table(readable_file(path), memory_map=True)
        except (OSError, require_arrow().ArrowException) as error:
            raise SourceError(f"{path} is no Parquet file that can be read: {error}") from error


class ArrowIpcSource(_ArrowFileSource):
    """Rows of Arrow IPC files (Feather 2) as columns; see the base class for arguments."""

    def _load(self, path: str) -> Any:
        pa = require_arrow()
        ipc = __import__("pyarrow.ipc").ipc
        try:
            return ipc.open_file(pa.memory_map(str(readable_file(path)))).read_all()
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path} is no Arrow IPC file that can be read: {error}") from error


class _TableReader(SourceReader):
    def __init__(
        self, table: Any, path: str, position: Plain, event_time: str | None, columns: list[str] | None
    ) -> None:
        wanted = {*(columns or ())} | ({event_time} if event_time else set())
        missing = sorted(wanted - set(table.column_names))
        if missing:
            raise SourceError(f"{path} has no column {missing}; it has {table.column_names}")
        self._fingerprint = _fingerprint(path)
        start: dict[str, Any] = position if isinstance(position, dict) else {}
        if start and start["file"] != self._fingerprint:
            raise SourceChangedError(
                f"{path} is another file than when the checkpoint was taken, so resuming would not be exact. Put the "
                "file back, or start over with fresh state"
            )
        self._row: int = start.get("row", 0)
        self._table = table
        self._event_time = event_time
        self._columns = columns or table.column_names

    def read(self, max_records: int) -> SourceBatch | None:
        if self._row >= self._table.num_rows:
            return None
        first = self._row
        part = self._table.slice(first, max_records)
        self._row += part.num_rows
        arrays = {name: _one_array(part.column(name)) for name in self._columns}
        times = None
        if self._event_time is not None:
            times = _micros(_one_array(part.column(self._event_time)), self._event_time)
        return SourceBatch(Columns(arrays), times, first_record=first)

    def position(self) -> Plain:
        return {"row": self._row, "file": self._fingerprint}


def _one_array(chunked: Any) -> Any:
    return chunked.chunk(0) if chunked.num_chunks == 1 else require_arrow().concat_arrays(chunked.chunks)


def _micros(array: Any, name: str) -> Any:
    pa = require_arrow()
    if array.null_count:
        raise SourceError(f"column {name!r} holds the event time and has {array.null_count} missing values")
    if pa.types.is_timestamp(array.type):
        return array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64()).to_numpy()
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64()).to_numpy() * 1_000_000
    if pa.types.is_floating(array.type):
        return np.round(array.to_numpy() * 1_000_000).astype(np.int64)
    raise SourceError(f"column {name!r} holds the event time and is {array.type}; make it a timestamp")


def _fingerprint(path: str) -> bytes:
    with readable_file(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _FINGERPRINT_BYTES))
        tail = file.read()
    return blake2b(tail + str(size).encode(), digest_size=16).digest()


class ParquetSink(PartSink):
    """Part files of Parquet; see ``onceflow.connectors.files``.

    Args:
        directory: Made if missing; belongs to one sink of one job.
    """

    suffix = ".parquet"

    def __init__(self, directory: str | PathLike[str]) -> None:
        super().__init__(directory)
        require_arrow()

    def writer(self) -> PartWriter:
        """See ``PartSink``."""
        return _ParquetWriter()


class _ParquetWriter(PartWriter):
    """One row group a batch; the footer is written by ``finish``."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._sent = 0
        self._writer: Any = None

    def encode(self, records: Batch) -> bytes:
        pa = require_arrow()
        pq = __import__("pyarrow.parquet").parquet
        try:
            arrays = records.arrays if isinstance(records, Columns) else None
            table = pa.table(arrays) if arrays is not None else pa.Table.from_pylist(records)
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._buffer, table.schema)
            self._writer.write_table(table)
        except (pa.ArrowException, AttributeError, TypeError) as error:
            raise SinkError(f"Parquet cannot hold a batch: {error}; map it to dicts of plain values first") from error
        return self._taken()

    def finish(self) -> bytes:
        if self._writer is None:
            return b""
        self._writer.close()
        self._writer = None
        data = self._taken()
        self._buffer, self._sent = io.BytesIO(), 0
        return data

    def _taken(self) -> bytes:
        data = self._buffer.getvalue()[self._sent :]
        self._sent += len(data)
        return data
