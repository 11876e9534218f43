"""Part files of CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from onceflow.columns import Columns, to_list
from onceflow.connectors.files.parts import PartSink, PartWriter
from onceflow.connectors.values import iso_text, plain_columns
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.types import Batch

__all__ = ["CsvSink"]


class CsvSink(PartSink):
    """Part files of CSV in utf-8, each with a header; see ``onceflow.connectors.files``.

    Records are dicts, tuples, or columns. None becomes an empty field; times become ISO text.

    Args:
        directory: Made if missing; belongs to one sink of one job.
        columns: Names of the columns; by default the keys of the first dict or the names of the columns. Needed for
            tuples.
        delimiter: One character between fields.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    suffix = ".csv"

    def __init__(
        self, directory: str | PathLike[str], *, columns: Sequence[str] | None = None, delimiter: str = ","
    ) -> None:
        super().__init__(directory)
        self._columns = None if columns is None else tuple(columns)
        self._delimiter = delimiter
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigurationError(f"delimiter={delimiter!r}: give one character, no quote and no line end")

    def writer(self) -> PartWriter:
        """See ``PartSink``."""
        return _CsvWriter(self._columns, self._delimiter)


class _CsvWriter(PartWriter):
    def __init__(self, columns: tuple[str, ...] | None, delimiter: str) -> None:
        self._columns = columns
        self._delimiter = delimiter
        #: Of an earlier run: records with the same fields get them in the same order, whichever comes first now.
        self._former: tuple[str, ...] = ()

    def resume(self, newest: Path) -> None:
        try:
            with newest.open(encoding="utf-8", newline="") as file:
                self._former = tuple(next(csv.reader(file, delimiter=self._delimiter), ()))
        except (csv.Error, UnicodeDecodeError):
            # Not a file of ours any more; the next one is on its own.
            self._former = ()

    def begin(self) -> bytes:
        return self._text([self._columns or ()])

    def encode(self, records: Batch) -> bytes:
        if isinstance(records, Columns):
            names = self._names(records.names)
            lists = [to_list(array) for array in plain_columns(records).select(*names).arrays.values()]
            return self._text(zip(*lists, strict=True))
        if records and isinstance(records[0], Mapping):
            names = self._names(tuple(records[0]))
            keys = set(names)
            for record in records:
                if not isinstance(record, Mapping) or record.keys() != keys:
                    shown = list(record) if isinstance(record, Mapping) else record
                    raise SinkError(
                        f"a record has the fields {shown!r}, and the file the columns {list(names)}; give all "
                        "records the same fields"
                    )
            return self._text(_plain([[record[name] for name in names] for record in records]))
        if self._columns is None:
            raise SinkError("records that are no dicts need CsvSink(..., columns=[...])")
        for record in records:
            if not isinstance(record, (tuple, list)) or len(record) != len(self._columns):
                raise SinkError(f"a record is {record!r}, and the file has the columns {list(self._columns)}")
        return self._text(_plain(records))

    def _names(self, found: tuple[str, ...]) -> tuple[str, ...]:
        if self._columns is None:
            self._columns = self._former if set(self._former) == set(found) else found
        elif set(found) != set(self._columns):
            raise SinkError(f"records have the fields {list(found)}, and the file the columns {list(self._columns)}")
        return self._columns

    def _text(self, rows: Iterable[Sequence[Any]]) -> bytes:
        rows = list(rows)
        try:
            out = io.StringIO(newline="")
            csv.writer(out, delimiter=self._delimiter, lineterminator="\n").writerows(rows)
            text = out.getvalue()
            if "\r" in text:
                # The writer quotes only characters of its line end, and readers take a bare \r for one.
                lines: list[str] = []
                target = SimpleNamespace(write=lines.append)
                csv.writer(target, delimiter=self._delimiter, lineterminator="\r\n").writerows(rows)
                text = "".join(line.removesuffix("\r\n") + "\n" for line in lines)
            return text.encode()
        except (csv.Error, UnicodeEncodeError) as error:
            raise SinkError(f"CSV cannot hold a record: {error}; map it to plain values first") from error


def _plain(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Rows with times as ISO text; bytes have no text."""
    kinds = set(map(type, chain.from_iterable(rows)))
    if bytes in kinds:
        raise SinkError("CSV cannot hold bytes; map them to text first")
    if not any(issubclass(kind, datetime) for kind in kinds):
        return rows
    return [[iso_text(value) if isinstance(value, datetime) else value for value in row] for row in rows]
