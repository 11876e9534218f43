"""Part files of CSV."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from onceflow.columns import Columns, to_list
from onceflow.connectors.files.parts import PartSink, PartWriter
from onceflow.connectors.values import csv_value, has_csv_text, plain_columns
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.types import Batch, Plain

__all__ = ["CsvSink"]

_TEXTS = ("string", "large_string")


class CsvSink(PartSink):
    """Part files of CSV in utf-8, each with a header; see ``onceflow.connectors.files``.

    Records are dicts, tuples, or columns. None becomes an empty field, as the empty text does (ParquetSink and
    JsonLinesSink keep them apart); times become ISO text in UTC. Bytes and containers have no text of their own and are
    refused.

    Args:
        directory: Made if missing; belongs to one sink of one job.
        columns: Names of the columns. By default the keys of the first dict or the names of the columns; they stay the
            same, also over a restart. Needed for tuples.
        delimiter: One character between fields.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    suffix = ".csv"

    def __init__(
        self, directory: str | PathLike[str], *, columns: Sequence[str] | None = None, delimiter: str = ","
    ) -> None:
        super().__init__(directory)
        self._columns = None if columns is None else _names(columns)
        self._delimiter = delimiter
        if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigurationError(
                f"delimiter={delimiter!r}: give one character, no quote and no line end", setting="delimiter"
            )

    def writer(self) -> PartWriter:
        """See ``PartSink``."""
        return _CsvWriter(self._columns, self._delimiter)


def _names(columns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(columns, Iterable) and not isinstance(columns, (str, bytes)):
        names = tuple(columns)
        # The keys of dicts can be numbers, too.
        if all(isinstance(name, (str, int)) for name in names) and len(set(map(str, names))) == len(names):
            return names
    raise ConfigurationError(f"columns={columns!r}: give a list of names, each once", setting="columns")


class _CsvWriter(PartWriter):
    def __init__(self, columns: tuple[str, ...] | None, delimiter: str) -> None:
        self._columns = columns
        self._delimiter = delimiter

    def restore(self, learnt: Plain) -> None:
        if isinstance(learnt, dict) and isinstance(columns := learnt.get("columns"), (list, tuple)):
            self._agree(tuple(columns))

    def snapshot(self) -> Plain:
        return None if self._columns is None else {"columns": [*self._columns]}

    def resume(self, newest: Path) -> None:
        # Not a file of ours any more if it cannot be read as one.
        with contextlib.suppress(csv.Error, UnicodeDecodeError), newest.open(encoding="utf-8", newline="") as file:
            self._agree(tuple(next(csv.reader(file, delimiter=self._delimiter), ())))

    def _agree(self, columns: tuple[Any, ...]) -> None:
        """What was asked for when the sink was made goes before what an earlier run has agreed on."""
        self._columns = self._columns or columns or None

    def begin(self) -> bytes:
        return self._text([self._columns or ()])

    def encode(self, records: Batch) -> bytes:
        if isinstance(records, Columns):
            names = self._names(records.names)
            with _text_errors():
                lists = [_column(array) for array in plain_columns(records).select(*names).arrays.values()]
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
            raise SinkError("records that are not dicts need CsvSink(..., columns=[...])")
        for record in records:
            if not isinstance(record, (tuple, list)) or len(record) != len(self._columns):
                raise SinkError(f"a record is {record!r}, and the file has the columns {list(self._columns)}")
        return self._text(_plain(records))

    def _names(self, found: tuple[str, ...]) -> tuple[str, ...]:
        if self._columns is None:
            if len(set(map(str, found))) != len(found):
                raise SinkError(f"the fields {list(found)!r} have names that are the same in CSV: name them apart")
            self._columns = found
        elif set(found) != set(self._columns):
            raise SinkError(
                f"records have the fields {list(found)}, and the file the columns {list(self._columns)}: give all "
                "records the same fields, or other columns on purpose, with CsvSink(..., columns=[...])"
            )
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
    """Rows of what has a text of its own."""
    if has_csv_text(set(map(type, chain.from_iterable(rows)))):
        return rows
    with _text_errors():
        return [[csv_value(value) for value in row] for row in rows]


def _column(array: Any) -> list[Any]:
    """The same of a column; of most types all values have one."""
    values = to_list(array)
    is_plain = (
        array.dtype.kind in "biufU" and array.dtype != np.longdouble
        if isinstance(array, np.ndarray)
        else str(array.type) in _TEXTS
    )
    return values if is_plain or has_csv_text(set(map(type, values))) else [csv_value(value) for value in values]


@contextlib.contextmanager
def _text_errors() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise SinkError(f"{error}; map it to text first") from error
