"""What of a record of the dataflow becomes the key, the value, the headers of a record of the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np

from onceflow.columns import Columns, to_list
from onceflow.connectors.event_time import micros
from onceflow.connectors.topics.staged import Headers, Part, Rows, Strings, arrow_column
from onceflow.connectors.values import json_line, plain_columns
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.types import FIRST_MICROS, LAST_MICROS, Batch

__all__ = ["Field", "Fields"]

#: Name of a field of the record (of a dict, or a column), or a function of the record.
Field: TypeAlias = str | Callable[[Any], Any]

_BYTES = {"binary", "large_binary", "string", "large_string"}


@dataclass(frozen=True, slots=True)
class Fields:
    """See ``LogSink``."""

    key: Field | None
    value: Field | None
    timestamp: Field | None
    headers: Field | None
    partition: int | Field | None

    def __post_init__(self) -> None:
        for name in ("key", "value", "timestamp", "headers", "partition"):
            field = getattr(self, name)
            fixed = name == "partition" and isinstance(field, int) and not isinstance(field, bool) and field >= 0
            if not (field is None or fixed or isinstance(field, str) or callable(field)):
                raise ConfigurationError(
                    f"{name}={field!r}: give the name of a field, or a function of a record", setting=name
                )

    def part(self, records: Batch) -> Part:
        """The records as the log takes them.

        Raises:
            SinkError: A record lacks a field, or has one that cannot be a key, a value and so on.
        """
        batch = _Batch(records)
        partitions = self.partition
        return Part(
            values=batch.values() if self.value is None else batch.strings("value", self.value),
            keys=None if self.key is None else batch.strings("key", self.key),
            timestamps=None if self.timestamp is None else batch.items("timestamp", self.timestamp, _millis),
            headers=None if self.headers is None else batch.items("headers", self.headers, _headers),
            partitions=(
                partitions
                if partitions is None or isinstance(partitions, int)
                else batch.items("partition", partitions, _partition)
            ),
        )


class _Batch:
    """A batch, with its rows made when they are needed first."""

    def __init__(self, records: Batch) -> None:
        self._columns = records if isinstance(records, Columns) else None
        self._rows = None if isinstance(records, Columns) else records

    @property
    def rows(self) -> list[Any]:
        if self._rows is None and self._columns is not None:
            self._rows = plain_columns(self._columns).to_rows()
        return self._rows or []

    def values(self) -> Strings:
        """The records as a whole."""
        return Rows([_text("value", row) for row in self.rows])

    def strings(self, what: str, field: Field) -> Strings:
        if self._columns is not None and isinstance(field, str):
            column = self._columns[field]
            if not isinstance(column, np.ndarray) and str(column.type) in _BYTES:
                return arrow_column(column)
        found = self._find(what, field)
        if set(map(type, found)) <= {bytes, type(None)}:
            return Rows(found)
        return Rows([_text(what, item) for item in found])

    def items(self, what: str, field: Field, convert: Callable[[Any], Any]) -> list[Any]:
        found = self._find(what, field)
        try:
            return list(map(convert, found))
        except (TypeError, ValueError) as error:
            raise SinkError(f"a record has no valid {what}: {error}") from error

    def _find(self, what: str, field: Field) -> list[Any]:
        if callable(field):
            return list(map(field, self.rows))
        if self._columns is not None:
            return to_list(self._columns[field])
        try:
            return [row[field] for row in self.rows]
        except (KeyError, TypeError, IndexError) as error:
            raise SinkError(f"a record has no field {field!r} for its {what}") from error


def _text(what: str, item: Any) -> bytes | None:
    if item is None or isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, (bytearray, memoryview)):
        return bytes(item)
    try:
        return json_line(item)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SinkError(f"{item!r} cannot be a {what}: {error}; map it to plain values or bytes first") from error


def _millis(item: Any) -> int:
    if isinstance(item, datetime):
        return micros(item) // 1000
    millis = _whole(item, "is neither a datetime nor milliseconds since 1970")
    if not FIRST_MICROS <= millis * 1000 <= LAST_MICROS:
        raise ValueError(f"{item!r} ms is not in the years 1 to 9999")
    return millis


def _headers(item: Any) -> Headers | None:
    if item is None:
        return None
    pairs = item.items() if isinstance(item, Mapping) else item
    return [(_name(name), _value(value)) for name, value in pairs]


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is not a str")
    return name


def _value(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"the value {value!r} is neither bytes nor None")


def _partition(item: Any) -> int:
    number = _whole(item, "is not the number of a partition")
    if number < 0:
        raise ValueError(f"{item!r} is not the number of a partition")
    return number


def _whole(item: Any, otherwise: str) -> int:
    """A whole number of any kind, but not a bool."""
    if isinstance(item, (bool, np.bool_)) or not isinstance(item, (int, np.integer)):
        raise TypeError(f"{item!r} {otherwise}")
    return int(item)
