"""Parquet files as a sink (extra ``arrow``)."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator, Mapping
from os import PathLike
from types import ModuleType
from typing import Any

from onceflow.columns import Columns
from onceflow.connectors.files.parts import PartSink, PartWriter
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.types import Batch

__all__ = ["ParquetSink", "require_arrow"]

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
