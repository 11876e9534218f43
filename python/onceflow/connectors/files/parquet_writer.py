"""How batches become part files of Parquet (extra ``arrow``)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onceflow.columns import Columns, to_list
from onceflow.connectors.files.arrow_types import MisfitError, convert, fit, is_open, settle, widen, wider
from onceflow.connectors.files.parts import PartWriter
from onceflow.connectors.values import arrow_arrays
from onceflow.exceptions import SinkError
from onceflow.types import Batch, Plain

__all__ = ["ParquetWriter"]

# Smaller row groups make files that are slow to read; larger ones are held in memory until they are written.
_ROW_GROUP_ROWS = 1 << 16
_ROW_GROUP_BYTES = 16 << 20


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


class ParquetWriter(PartWriter):
    """Gathers batches into row groups; the footer is written by ``finish``.

    Args:
        schema: Of all fields; None: what the first records show.
        types: Of some fields.
        widens: Whether types become wider where a value does not fit.
    """

    def __init__(self, schema: Any, types: Mapping[str, Any], *, widens: bool) -> None:
        self._asked = schema is not None
        self._schema = schema
        self._types = types
        self._widens = widens
        # A type that became wider within a batch may not hold what came before it in the batch.
        self.splits = widens
        #: The batch that ``fits`` was asked about, of the schema.
        self._next: Any = None
        self._tables: list[Any] = []
        self._rows = self._size = 0
        self._file = _Bytes()
        #: Of the part that was begun, if a row group of it was written: no other schema can come into it.
        self._writer: Any = None

    def restore(self, learnt: Plain) -> None:
        if isinstance(learnt, dict) and isinstance(schema := learnt.get("schema"), bytes):
            self._agree(pa.ipc.read_schema(pa.py_buffer(schema)))

    def snapshot(self) -> Plain:
        if self._schema is None:
            return None
        learnt: dict[str, Plain] = {"schema": self._schema.serialize().to_pybytes()}
        if not self._widens:
            # In which files of several workers must not differ; a type that is still open fits any.
            learnt["names"] = sorted(self._schema.names)
            learnt["types"] = {field.name: str(field.type) for field in self._schema if not is_open(field.type)}
        return learnt

    def resume(self, newest: Path) -> None:
        # Not a file of ours any more if it cannot be read as one.
        with contextlib.suppress(pa.ArrowException, OSError):
            self._agree(pq.read_schema(newest).remove_metadata())

    def _agree(self, schema: Any) -> None:
        """What was asked for when the sink was made goes before what an earlier run has agreed on."""
        if not self._asked:
            self._schema = pa.schema([field.with_type(self._types.get(field.name, field.type)) for field in schema])

    # -- a batch ---------------------------------------------------------------------------------

    def fits(self, records: Batch) -> bool:
        before = self._schema
        columns = self._columns(records)
        try:
            with _parquet_errors():
                widened = self._settle(columns)
                self._next = pa.Table.from_arrays(
                    [self._array(field, columns[field.name], len(records)) for field in self._schema],
                    schema=self._schema,
                )
        except SinkError:
            self._schema = before
            raise
        if before is None or before == self._schema:
            return True
        # A type that was open can be settled in what is still held; one that became wider would bend what is.
        return self._writer is None and not (widened and self._tables)

    def encode(self, records: Batch) -> bytes:
        table, self._next = self._next, None
        self._tables.append(table)
        self._rows += table.num_rows
        self._size += table.nbytes
        if self._rows >= _ROW_GROUP_ROWS or self._size >= _ROW_GROUP_BYTES:
            self._write_group()
        return self._file.taken()

    def _columns(self, records: Batch) -> dict[str, Any]:
        """By name: an Arrow array, or a list of Python's values."""
        if isinstance(records, Columns):
            self._check_names(records.names)
            return {
                name: to_list(array) if isinstance(array, np.ndarray) and array.dtype.kind == "O" else array
                for name, array in arrow_arrays(records).items()
            }
        first = records[0]
        names = list(first) if isinstance(first, Mapping) else None
        keys = set(names or ())
        known = {kind for kind in set(map(type, records)) if issubclass(kind, Mapping)}
        for record in records:
            if names is None or type(record) not in known or (record.keys() != keys and not self._widens):
                shown = list(record) if isinstance(record, Mapping) else record
                raise SinkError(f"a record has the fields {shown!r}, the first one {names}; Parquet needs equal ones")
        if self._widens:
            names = list(dict.fromkeys(name for record in records for name in record))
        self._check_names(names or ())
        return {name: [record.get(name) for record in records] for name in names or ()}

    def _check_names(self, names: Any) -> None:
        for name in names:
            if not isinstance(name, str):
                raise SinkError(f"a field of a record has the name {name!r}; Parquet needs text")
        if self._schema is not None and set(names) != set(self._schema.names) and not self._widens:
            raise SinkError(
                f"records have the fields {list(names)}, and the file {self._schema.names}: give all records the same "
                "fields, or other ones on purpose, with ParquetSink(..., schema=...)"
            )

    def _settle(self, columns: dict[str, Any]) -> bool:
        """Brings the schema up to these columns; true if what was settled before became wider."""
        known = {} if self._schema is None else {field.name: field for field in self._schema}
        unknown = sorted(self._types.keys() - columns.keys() - known.keys())
        if unknown and not self._widens:
            raise SinkError(f"types={{...}} names the fields {unknown}, and records have {list(columns)}")
        fields, widened = dict(known), False
        for name, values in columns.items():
            field = fields.setdefault(name, pa.field(name, self._types.get(name, pa.null())))
            fields[name] = field = field.with_type(_settled(field.type, values))
            if self._widens:
                with _misfits(name, values, field.type, self._widens):
                    fields[name] = field.with_type(_widened(field.type, values))
            widened = widened or (name in known and fields[name] != field) or (bool(known) and name not in known)
        for name in fields.keys() - columns.keys():
            columns[name] = None
        if self._schema is None or list(fields.values()) != list(self._schema):
            self._schema = pa.schema(list(fields.values()))
        return widened

    def _array(self, field: Any, values: Any, rows: int) -> Any:
        if values is None:
            return pa.nulls(rows, field.type)
        with _misfits(field.name, values, field.type, self._widens):
            array = convert(values, field.type) if isinstance(values, list) else fit(_arrow(values), field.type)
        if array.null_count and not field.nullable:
            raise SinkError(f"field {field.name!r} is None in a record, and the schema does not allow that")
        return array

    # -- row groups ------------------------------------------------------------------------------

    def _write_group(self) -> None:
        tables, self._tables = self._tables, []
        self._rows = self._size = 0
        with _parquet_errors():
            if self._writer is None:
                schema = tables[-1].schema
                tables = [_of_schema(table, schema) for table in tables]
                self._writer = pq.ParquetWriter(self._file, schema)
            self._writer.write_table(pa.concat_tables(tables))

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


def _arrow(array: Any) -> Any:
    """A column as an Arrow array with the values themselves."""
    found = pa.array(array)
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


def _settled(agreed: Any, values: Any) -> Any:
    if isinstance(values, list):
        return settle(agreed, values)
    if pa.types.is_null(agreed):
        return _arrow(values).type
    return settle(agreed, to_list(values)) if is_open(agreed) else agreed


def _widened(agreed: Any, values: Any) -> Any:
    if isinstance(values, list):
        return widen(agreed, values)
    found = _arrow(values).type
    return widen(agreed, to_list(values)) if pa.types.is_nested(found) else wider(agreed, found)


def _of_schema(table: Any, schema: Any) -> Any:
    """A table that came before types were settled, with these types: it has only None where they are others."""
    if table.schema == schema:
        return table
    arrays = [convert(table.column(field.name).to_pylist(), field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


@contextlib.contextmanager
def _misfits(name: str, values: Any, agreed: Any, widens: bool) -> Iterator[None]:
    """Names the field, the record and both types."""
    try:
        yield
    except (MisfitError, pa.ArrowException, AttributeError, TypeError, OverflowError, ValueError) as error:
        items = values if isinstance(values, list) else to_list(values)
        number, reason = next(_reasons(items, agreed, widens=widens), (0, error))
        item = items[number]
        widening = "" if widens else ', on_new_types="widen"'
        advice = f"ParquetSink(..., types={{{name!r}: ...}}{widening})"
        raise SinkError(
            f"Parquet cannot hold a batch: field {name!r} of record {number} is {_shown(item)}: {reason}. The column "
            f"is {agreed}, by its first value or the schema: map it, or give {advice}"
        ) from error


def _reasons(items: list[Any], agreed: Any, *, widens: bool) -> Iterator[tuple[int, Exception]]:
    """Which values do not fit, and why; where types become wider, after those before them."""
    for number, item in enumerate(items):
        try:
            if widens:
                agreed = widen(agreed, [item])
            convert([item], agreed)
        except Exception as reason:
            yield number, reason


def _shown(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 80 else f"{text[:80]}…"


@contextlib.contextmanager
def _parquet_errors() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, AttributeError, TypeError, OverflowError, ValueError, MisfitError) as error:
        raise SinkError(
            f"Parquet cannot hold a batch: {error}; map it to dicts of plain values, or give "
            "ParquetSink(..., schema=...)"
        ) from error
