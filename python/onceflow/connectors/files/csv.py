"""CSV files: RFC 4180 with any delimiter, typed columns, exact positions."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any

import numpy as np

from onceflow.columns import Columns
from onceflow.connectors.files.event_time import EventTimeParser
from onceflow.connectors.files.lines import LineReader
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections, check_policy
from onceflow.connectors.files.partitions import Paths, partitions_of
from onceflow.connectors.files.parts import PartSink, PartWriter, plain_columns
from onceflow.exceptions import ConfigurationError, SinkError, SourceError
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.types import Batch, Plain

__all__ = ["CsvSink", "CsvSource"]

_SAMPLE_ROWS = 1000
_BOOLS = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}

_CONVERT: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": _BOOLS.__getitem__,
    "datetime": datetime.fromisoformat,
    "str": str,
}


class CsvSource(Source):
    """Rows of CSV files as dicts, or as columns.

    The types of columns are inferred from the first 1,000 rows of a file (int, float, bool, else str) and kept in the
    position, so that a resumed job reads the same types.

    Args:
        paths: A file, a pattern, or several; each file is a partition.
        event_time: Column that holds the time of a row: ISO text (UTC without a zone) or seconds since 1970.
        types: Types of columns by name: ``"int"``, ``"float"``, ``"bool"``, ``"datetime"``, ``"str"``.
        columns: The columns to hand out, in this order; all by default.
        null_values: Texts that mean "missing" and become None.
        delimiter: One character between fields.
        encoding: Of the text; an ASCII superset such as utf-8 or latin-1.
        on_malformed: What to do with rows that cannot be read: wrong number of fields, a value that does not fit its
            column's type, text that does not decode, no valid event time.
        as_columns: Hand out ``Columns`` of Arrow arrays (extra ``arrow``) instead of a list of dicts.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        event_time: str | None = None,
        types: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
        null_values: Sequence[str] = ("", "NA"),
        delimiter: str = ",",
        encoding: str = "utf-8",
        on_malformed: str = "fail",
        as_columns: bool = False,
    ) -> None:
        self._paths = paths
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self.event_time = event_time
        self.types = dict(types or {})
        self.columns = None if columns is None else list(columns)
        self.null_values = frozenset(null_values)
        self.delimiter = delimiter
        self.encoding = encoding
        self.as_columns = as_columns
        self.has_event_time = event_time is not None
        self.has_dead_letters = self._policy == "dead_letter"
        unknown = {name: kind for name, kind in self.types.items() if kind not in _CONVERT}
        if unknown:
            raise ConfigurationError(f"unknown types {unknown}: choose from {', '.join(_CONVERT)}")
        if len(delimiter) != 1:
            raise ConfigurationError(f"delimiter={delimiter!r}: give one character")

    def partitions(self) -> list[str]:
        """The files."""
        return partitions_of(self._paths)

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return _CsvReader(self, self._policy, partition, position)

    def describe(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"type": "CsvSource", "paths": self._paths}


class _CsvReader(SourceReader):
    def __init__(self, source: CsvSource, policy: MalformedPolicy, partition: str, position: Plain) -> None:
        self._source = source
        self._policy = policy
        self._times = EventTimeParser()
        start: dict[str, Any] = position if isinstance(position, dict) else {}
        if not start:
            self._header, self._types = self._look(partition)
        self._lines = LineReader(partition, position)
        try:
            self._record: int = start.get("record", 0)
            if start:
                self._header, self._types = start["header"], start["types"]
            else:
                self._read_records(1)
            self._check_names(partition)
        except BaseException:
            self._lines.close()
            raise
        wanted = source.columns or self._header
        self._wanted = [(name, self._header.index(name), self._types[name]) for name in wanted]
        self._time_index = None if source.event_time is None else self._header.index(source.event_time)

    def _look(self, partition: str) -> tuple[list[str], dict[str, str]]:
        """The header, and the types that a sample suggests."""
        self._lines = LineReader(partition, None)
        try:
            sample = self._read_records(_SAMPLE_ROWS + 1)
        finally:
            self._lines.close()
        if not sample:
            raise SourceError(f"{partition} is empty; a CSV file begins with the names of its columns")
        source = self._source
        try:
            texts = [data.decode(source.encoding) for _, data in sample]
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{partition} is not {source.encoding} ({error.reason} within its first rows); give its encoding"
            ) from error
        header, *rows = csv.reader(texts, delimiter=source.delimiter)
        if header:
            header[0] = header[0].removeprefix("\ufeff")
        if len(set(header)) != len(header):
            raise SourceError(f"{partition} names a column twice: {header}")
        rows = [row for row in rows if len(row) == len(header)]
        types = {
            name: source.types.get(name) or _infer([row[index] for row in rows], source.null_values)
            for index, name in enumerate(header)
        }
        return header, types

    def _check_names(self, partition: str) -> None:
        source = self._source
        named = {*source.types, *(source.columns or ())} | ({source.event_time} if source.event_time else set())
        missing = sorted(named - set(self._header))
        if missing:
            raise SourceError(f"{partition} has no column {missing}; it has {self._header}")

    def _read_records(self, count: int) -> list[tuple[int, bytes]]:
        """Lines that make up ``count`` records, each with its number; quoted line ends stay in a record."""
        first = self._lines.line
        lines = self._lines.read(count)
        if not any(b'"' in line for line in lines):
            return list(enumerate(lines, first))
        records: list[tuple[int, bytes]] = []
        open_record: list[bytes] = []
        number = start = first
        while lines:
            for line in lines:
                if not open_record:
                    start = number
                open_record.append(line)
                number += 1
                if sum(part.count(b'"') for part in open_record) % 2 == 0:
                    records.append((start, b"\n".join(open_record)))
                    open_record = []
            lines = self._lines.read(count - len(records)) if len(records) < count else []
        if open_record:
            records.append((start, b"\n".join(open_record)))
        return records

    def read(self, max_records: int) -> SourceBatch | None:
        source = self._source
        found = self._read_records(max_records)
        if not found:
            return None
        first = self._record
        self._record += len(found)
        rejections = Rejections(self._policy, self._lines.path)
        rows, origins = self._parse(found, rejections)
        values, times = self._convert(rows, origins, rejections)
        batch: Batch
        names = [name for name, _, _ in self._wanted]
        if source.as_columns:
            batch = _arrow_columns(self._wanted, values)
        else:
            batch = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        return SourceBatch(batch, times, rejections.records, rejections.skipped, first)

    def _parse(
        self, found: list[tuple[int, bytes]], rejections: Rejections
    ) -> tuple[list[list[str]], list[tuple[int, bytes]]]:
        """Fields of the records that have as many as the header."""
        source, width = self._source, len(self._header)
        try:
            texts = [data.decode(source.encoding) for _, data in found]
        except UnicodeDecodeError:
            texts = []
            kept = []
            for number, data in found:
                try:
                    texts.append(data.decode(source.encoding))
                    kept.append((number, data))
                except UnicodeDecodeError as error:
                    rejections.add(number, f"is not {source.encoding} ({error.reason})", data)
            found = kept
        try:
            rows = list(csv.reader(texts, delimiter=source.delimiter, strict=True))
        except csv.Error:
            rows = []
        if len(rows) == len(found) and all(len(row) == width for row in rows):
            return rows, found
        rows, kept = [], []
        for (number, data), text in zip(found, texts, strict=True):
            if not text.strip("\r"):
                continue
            try:
                row = next(csv.reader([text], delimiter=source.delimiter, strict=True))
            except csv.Error as error:
                rejections.add(number, f"is no CSV ({error})", data)
                continue
            if len(row) == width:
                rows.append(row)
                kept.append((number, data))
            else:
                rejections.add(number, f"has {len(row)} fields, the header {width}", data)
        return rows, kept

    def _convert(
        self, rows: list[list[str]], origins: list[tuple[int, bytes]], rejections: Rejections
    ) -> tuple[list[Any], Any]:
        """The wanted columns as Python values, and the event times, without the rows that do not convert."""
        nulls = self._source.null_values
        fields = list(zip(*rows, strict=True)) if rows else [()] * len(self._header)
        try:
            values = [_column(fields[index], kind, nulls) for _, index, kind in self._wanted]
            times = None if self._time_index is None else self._times.parse(fields[self._time_index])
            return values, times
        except (ValueError, KeyError):
            pass
        kept = []
        for row, (number, data) in zip(rows, origins, strict=True):
            reason = self._why_not(row)
            if reason is None:
                kept.append(row)
            else:
                rejections.add(number, reason, data)
        return self._convert(kept, [], rejections)

    def _why_not(self, row: list[str]) -> str | None:
        for name, index, kind in self._wanted:
            try:
                _column((row[index],), kind, self._source.null_values)
            except (ValueError, KeyError):
                return f"has {row[index]!r} in column {name!r}, which is {kind}"
        if self._time_index is not None:
            try:
                self._times.parse((row[self._time_index],))
            except ValueError:
                return f"has {row[self._time_index]!r} as event time {self._source.event_time!r}"
        return None

    def position(self) -> Plain:
        return {
            **self._lines.position(),
            "record": self._record,
            "header": list(self._header),
            "types": dict(self._types),
        }

    def close(self) -> None:
        self._lines.close()


def _infer(values: Sequence[str], nulls: frozenset[str]) -> str:
    present = [value for value in values if value not in nulls]
    if not present:
        return "str"
    for kind in ("int", "float", "bool"):
        try:
            for value in present:
                _CONVERT[kind](value)
        except (ValueError, KeyError):
            continue
        return kind
    return "str"


def _column(values: Sequence[str], kind: str, nulls: frozenset[str]) -> Sequence[Any]:
    if kind == "str":
        return [None if value in nulls else value for value in values]
    convert = _CONVERT[kind]
    if nulls.isdisjoint(values):
        return list(map(convert, values))
    return [None if value in nulls else convert(value) for value in values]


def _arrow_columns(wanted: list[tuple[str, int, str]], values: list[Any]) -> Columns:
    from onceflow.connectors.files.arrow import require_arrow  # noqa: PLC0415 - an extra

    pa = require_arrow()
    kinds = {
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "datetime": pa.timestamp("us"),
        "str": pa.string(),
    }
    return Columns(
        {name: pa.array(column, kinds[kind]) for (name, _, kind), column in zip(wanted, values, strict=True)}
    )


class CsvSink(PartSink):
    """Part files of CSV, each with a header; see ``onceflow.connectors.files``.

    Records are dicts, tuples, or columns. None becomes an empty field; times become ISO text.

    Args:
        directory: Made if missing; belongs to one sink of one job.
        columns: Names of the columns; by default the keys of the first dict or the names of the columns. Needed for
            tuples.
        delimiter: One character between fields.
    """

    suffix = ".csv"

    def __init__(
        self, directory: str | PathLike[str], *, columns: Sequence[str] | None = None, delimiter: str = ","
    ) -> None:
        super().__init__(directory)
        self._columns = None if columns is None else tuple(columns)
        self._delimiter = delimiter

    def writer(self) -> PartWriter:
        """See ``PartSink``."""
        return _CsvWriter(self._columns, self._delimiter)


class _CsvWriter(PartWriter):
    def __init__(self, columns: tuple[str, ...] | None, delimiter: str) -> None:
        self._columns = columns
        self._delimiter = delimiter

    def begin(self) -> bytes:
        return self._text([self._columns or ()])

    def encode(self, records: Batch) -> bytes:
        if isinstance(records, Columns):
            names = records.names
            self._check(names)
            lists = [
                _listed(array) for array in plain_columns(records).select(*(self._columns or names)).arrays.values()
            ]
            return self._text(zip(*lists, strict=True))
        if records and isinstance(records[0], Mapping):
            self._check(tuple(records[0]))
            names = self._columns or ()
            keys = set(names)
            for record in records:
                if record.keys() != keys:
                    raise SinkError(
                        f"a record has the fields {list(record)}, and the file the columns {list(names)}; give all "
                        "records the same fields"
                    )
            return self._text([[record[name] for name in names] for record in records])
        if self._columns is None:
            raise SinkError("records that are no dicts need CsvSink(..., columns=[...])")
        for record in records:
            if not isinstance(record, (tuple, list)) or len(record) != len(self._columns):
                raise SinkError(f"a record is {record!r}, and the file has the columns {list(self._columns)}")
        return self._text(records)

    def _check(self, names: tuple[str, ...]) -> None:
        if self._columns is None:
            self._columns = names
        elif set(names) != set(self._columns):
            raise SinkError(f"records have the fields {list(names)}, and the file the columns {list(self._columns)}")

    def _text(self, rows: Any) -> bytes:
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=self._delimiter, lineterminator="\n").writerows(rows)
        return out.getvalue().encode()


def _listed(array: Any) -> list[Any]:
    listed: list[Any] = array.tolist() if isinstance(array, np.ndarray) else array.to_pylist()
    return listed
