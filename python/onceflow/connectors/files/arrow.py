"""Parquet and Arrow IPC files (extra ``arrow``)."""

from __future__ import annotations

import contextlib
import importlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from os import PathLike
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from onceflow.columns import Columns
from onceflow.connectors.event_time import arrow_micros, arrow_reason
from onceflow.connectors.files.partitions import FileSource, Paths, open_file
from onceflow.connectors.files.parts import PartSink, PartWriter
from onceflow.exceptions import ConfigurationError, SinkError, SourceChangedError, SourceError
from onceflow.sources import SourceBatch, SourceReader
from onceflow.types import Batch, Plain

__all__ = ["ArrowIpcSource", "ParquetSink", "ParquetSource", "require_arrow"]

_FINGERPRINT_BYTES = 4096
# Smaller row groups make files that are slow to read; larger ones are held in memory until they are written.
_ROW_GROUP_ROWS = 1 << 16
_ROW_GROUP_BYTES = 16 << 20


def require_arrow() -> ModuleType:
    """pyarrow, or an error that names the extra."""
    try:
        import pyarrow  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError("Arrow and Parquet need pyarrow: pip install 'onceflow[arrow]'") from error
    module: ModuleType = pyarrow
    return module


def _parquet() -> ModuleType:
    return importlib.import_module("pyarrow.parquet")


class _Groups(ABC):
    """A file as a sequence of groups of rows (row groups, record batches), one in memory at a time."""

    names: list[str]
    count: int

    @abstractmethod
    def load(self, number: int, columns: list[str]) -> Any:
        """One group as a ``pyarrow.Table`` of these columns."""

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""


class _ArrowFileSource(FileSource):
    """Batches of columns of a file that is complete: a position is a group, a row in it, and the file's fingerprint.

    Args:
        paths: A file, a pattern, or several; each file is a partition.
        event_time: Column that holds the time of a row: a timestamp, a date, or seconds since 1970.
        columns: The columns to hand out; all by default.
    """

    def __init__(self, paths: Paths, *, event_time: str | None = None, columns: Sequence[str] | None = None) -> None:
        super().__init__(paths)
        self._event_time = event_time
        self._columns = None if columns is None else list(columns)
        self.has_event_time = event_time is not None
        require_arrow()

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        open_file(partition).close()
        with _source_errors(partition, self._kind):
            groups = self._open(partition)
        try:
            return _GroupReader(groups, partition, self._kind, position, self._event_time, self._columns)
        except BaseException:
            groups.close()
            raise

    _kind: ClassVar[str]

    @abstractmethod
    def _open(self, path: str) -> _Groups:
        """The file; raises what pyarrow raises."""


class _ParquetGroups(_Groups):
    def __init__(self, path: str) -> None:
        self._file = _parquet().ParquetFile(path, memory_map=True)
        self.names = self._file.schema_arrow.names
        self.count = self._file.num_row_groups

    def load(self, number: int, columns: list[str]) -> Any:
        return self._file.read_row_group(number, columns=columns)

    def close(self) -> None:
        self._file.close(force=True)


class ParquetSource(_ArrowFileSource):
    """Rows of Parquet files as columns; one row group of a file is in memory at a time.

    See the base class for arguments.
    """

    _kind = "Parquet"

    def _open(self, path: str) -> _Groups:
        return _ParquetGroups(path)


class _IpcGroups(_Groups):
    def __init__(self, path: str) -> None:
        pa = require_arrow()
        self._map = pa.memory_map(path)
        self._file = importlib.import_module("pyarrow.ipc").open_file(self._map)
        self.names = self._file.schema.names
        self.count = self._file.num_record_batches

    def load(self, number: int, columns: list[str]) -> Any:
        return require_arrow().Table.from_batches([self._file.get_batch(number)]).select(columns)

    def close(self) -> None:
        # Batches may still look into the map; it goes when the last of them goes.
        self._map = self._file = None


class ArrowIpcSource(_ArrowFileSource):
    """Rows of Arrow IPC files (Feather 2) as columns; one record batch of a file is in memory at a time.

    See the base class for arguments.
    """

    _kind = "Arrow IPC"

    def _open(self, path: str) -> _Groups:
        return _IpcGroups(path)


class _GroupReader(SourceReader):
    def __init__(
        self,
        groups: _Groups,
        path: str,
        kind: str,
        position: Plain,
        event_time: str | None,
        columns: list[str] | None,
    ) -> None:
        wanted = {*(columns or ())} | ({event_time} if event_time else set())
        missing = sorted(wanted - set(groups.names))
        if missing:
            raise SourceError(f"{path} has no column {missing}; it has {groups.names}")
        if len(set(groups.names)) != len(groups.names):
            raise SourceError(f"{path} names a column twice: {groups.names}")
        self._fingerprint = _fingerprint(path)
        start: dict[str, Any] = position if isinstance(position, dict) else {}
        if start and start["file"] != self._fingerprint:
            raise SourceChangedError(
                f"{path} is another file than when the checkpoint was taken, so resuming would not be exact. Put the "
                "file back, or start over with fresh state"
            )
        self._groups = groups
        self._path = path
        self._kind = kind
        #: The next group to load, the loaded one behind which it comes, and the next row in that.
        self._group: int = start.get("group", 0)
        self._row: int = start.get("row", 0)
        self._record: int = start.get("record", 0)
        self._table: Any = None
        self._event_time = event_time
        self._columns = columns or groups.names
        self._loaded = list(dict.fromkeys([*self._columns, *([event_time] if event_time else [])]))

    def read(self, max_records: int) -> SourceBatch | None:
        parts: list[Any] = []
        left = max_records
        # A batch is cut by its number of rows alone, also over groups.
        while left and self._group < self._groups.count:
            if self._table is None:
                with _source_errors(self._path, self._kind):
                    self._table = self._groups.load(self._group, self._loaded)
            part = self._table.slice(self._row, left)
            parts.append(part)
            left -= part.num_rows
            self._row += part.num_rows
            if self._row >= self._table.num_rows:
                self._group, self._row, self._table = self._group + 1, 0, None
        first, self._record = self._record, self._record + max_records - left
        if left == max_records:
            return None
        with _source_errors(self._path, self._kind):
            table = require_arrow().concat_tables(parts).combine_chunks()
        arrays = {name: _one_array(table.column(name)) for name in self._loaded}
        times = None
        if self._event_time is not None:
            times = _micros(arrays[self._event_time], f"{self._path}: column {self._event_time!r}")
        return SourceBatch(Columns({name: arrays[name] for name in self._columns}), times, first_record=first)

    def position(self) -> Plain:
        return {"group": self._group, "row": self._row, "record": self._record, "file": self._fingerprint}

    def close(self) -> None:
        self._groups.close()


def _one_array(chunked: Any) -> Any:
    return chunked.chunk(0) if chunked.num_chunks == 1 else require_arrow().concat_arrays(chunked.chunks)


@contextlib.contextmanager
def _source_errors(path: str, kind: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except (OSError, require_arrow().ArrowException) as error:
        raise SourceError(f"{path} is no {kind} file that can be read: {error}") from error


def _micros(array: Any, name: str) -> Any:
    """Event times; raises ``SourceError`` for a column or a value that holds none."""
    try:
        times, valid = arrow_micros(array)
    except TypeError as error:
        raise SourceError(f"{name} holds the event time and {error}") from error
    if not valid.all():
        bad = int(np.flatnonzero(~valid)[0])
        raise SourceError(f"{name} holds the event time and {arrow_reason(array, bad)}")
    return times


def _fingerprint(path: str) -> bytes:
    try:
        with open_file(path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _FINGERPRINT_BYTES))
            tail = file.read()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    return blake2b(tail + str(size).encode(), digest_size=16).digest()


class ParquetSink(PartSink):
    """Part files of Parquet; see ``onceflow.connectors.files``.

    Records are dicts with the same fields, or columns.

    Args:
        directory: Made if missing; belongs to one sink of one job.
        schema: A ``pyarrow.Schema``; by default what the first records show. Give it where those may hold None, or
            where all part files must have the same types.
    """

    suffix = ".parquet"

    def __init__(self, directory: str | PathLike[str], *, schema: Any = None) -> None:
        super().__init__(directory)
        if schema is not None and not isinstance(schema, require_arrow().Schema):
            raise ConfigurationError(f"schema={schema!r}: give a pyarrow.Schema")
        require_arrow()
        self._schema = schema

    def writer(self) -> PartWriter:
        """See ``PartSink``."""
        return _ParquetWriter(self._schema)


class _Bytes(io.RawIOBase):
    """A file that only ever grows, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        """What was written since the last call."""
        data, self._parts = b"".join(self._parts), []
        return data


class _ParquetWriter(PartWriter):
    """Gathers batches into row groups; the footer is written by ``finish``."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._tables: list[Any] = []
        self._rows = self._size = 0
        self._file = _Bytes()
        self._writer: Any = None

    def encode(self, records: Batch) -> bytes:
        with _parquet_errors(self._schema):
            table = self._table(records)
        self._tables.append(table)
        self._rows += table.num_rows
        self._size += table.nbytes
        if self._rows >= _ROW_GROUP_ROWS or self._size >= _ROW_GROUP_BYTES:
            self._write_group()
        return self._file.taken()

    def _table(self, records: Batch) -> Any:
        pa = require_arrow()
        if isinstance(records, Columns):
            table = pa.table(records.arrays)
        else:
            names = list(records[0]) if records and isinstance(records[0], Mapping) else None
            keys = set(names or ())
            for record in records:
                if names is None or not isinstance(record, Mapping) or record.keys() != keys:
                    shown = list(record) if isinstance(record, Mapping) else record
                    raise SinkError(
                        f"a record has the fields {shown!r}, the first one {names}; Parquet needs equal ones"
                    )
            if self._schema is not None and keys == set(self._schema.names):
                return pa.Table.from_pylist(records, schema=self._schema)
            table = pa.Table.from_pylist(records)
        if self._schema is None:
            self._schema = table.schema.remove_metadata()
        if set(table.column_names) != set(self._schema.names):
            raise SinkError(f"records have the fields {table.column_names}, and the file {self._schema.names}")
        return table.select(self._schema.names).cast(self._schema)

    def _write_group(self) -> None:
        tables, self._tables = self._tables, []
        self._rows = self._size = 0
        with _parquet_errors(self._schema):
            if self._writer is None:
                self._writer = _parquet().ParquetWriter(self._file, self._schema)
            self._writer.write_table(require_arrow().concat_tables(tables))

    def finish(self) -> bytes:
        if self._tables:
            self._write_group()
        if self._writer is None:
            return b""
        self._writer.close()
        self._writer = None
        data = self._file.taken()
        self._file = _Bytes()
        return data


@contextlib.contextmanager
def _parquet_errors(schema: Any) -> Iterator[None]:
    try:
        yield
    except (require_arrow().ArrowException, AttributeError, TypeError, OverflowError, ValueError) as error:
        known = (
            "" if schema is None else f" in a file of {', '.join(f'{field.name}: {field.type}' for field in schema)}"
        )
        raise SinkError(
            f"Parquet cannot hold a batch{known}: {error}; map it to dicts of plain values, or give "
            "ParquetSink(..., schema=...)"
        ) from error
