"""Records into the lines of a part, all values of a column at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from onceflow._native import _copy_lines
from onceflow.columns import Columns, rows_of, to_list
from onceflow.connectors.postgres.catalogue import Table
from onceflow.connectors.postgres.staged import Part
from onceflow.connectors.postgres.texts import encoder, plain_kind
from onceflow.exceptions import OnceflowError, SinkError, UserFunctionError
from onceflow.types import Batch

__all__ = ["Delete", "Encode"]

#: Name of a field that says whether the row of the record's key is to be deleted, or a function that says so.
Delete: TypeAlias = "str | Callable[[Any], bool]"


class Encode:
    """For one table.

    Args:
        table: As it is now.
        columns: That are written.
        key: Columns by which rows are upserted; none: rows are appended.
        delete: See ``Delete``; None: nothing is deleted.
    """

    def __init__(self, table: Table, columns: Sequence[str], key: Sequence[str], delete: Delete | None) -> None:
        self._table = table
        self._key = list(key)
        self._rest = [name for name in columns if name not in key]
        self._columns = [*self._key, *self._rest]
        types = {name: table.columns[name].type for name in self._columns}
        self._encoders = {name: encoder(kind, is_key=name in key) for name, kind in types.items()}
        #: Of columns most of whose values need no look by themselves.
        self._kinds = {name: plain_kind(kind) for name, kind in types.items()}
        self._delete = delete
        #: A field that is no column.
        self._flag = delete if isinstance(delete, str) and delete not in self._columns else None

    @property
    def columns(self) -> list[str]:
        """Those of the key first."""
        return list(self._columns)

    def part(self) -> Part:
        """An empty one."""
        types = [self._table.columns[name].type.name for name in self._columns]
        name = self._table.name
        return Part(name.schema, name.name, self._columns, types, len(self._key), [])

    def write(self, part: Part, records: Batch) -> int:
        """Adds records to a part; about how many bytes it grows by.

        Raises:
            SinkError: A record is not of the table's columns, or a value is none that its column keeps.
        """
        deleted = self._deleted(records)
        if not self._key:
            _, lines = self._lines(records, self._columns)
            part.blocks += lines
            part.rows += len(records)
            return sum(map(len, lines))
        before = len(part.keyed)
        if deleted is None or not any(deleted):
            keys, lines = self._lines(records, self._columns)
            part.keyed.update(zip(keys, lines, strict=True))
            nbytes = sum(map(len, keys)) + sum(map(len, lines))
        else:
            # Of what is deleted nothing but the key is needed.
            keys, _ = self._lines(records, self._key)
            rows = rows_of(records)
            _, lines = self._lines([row for row, gone in zip(rows, deleted, strict=True) if not gone], self._columns)
            rest = iter(lines)
            part.keyed.update((key, None if gone else next(rest)) for key, gone in zip(keys, deleted, strict=True))
            nbytes = sum(map(len, keys)) + sum(map(len, lines))
        return nbytes * (len(part.keyed) - before) // len(keys)

    def _deleted(self, records: Batch) -> list[bool] | None:
        if self._delete is None:
            return None
        if isinstance(self._delete, str):
            flags = self._column(records, self._delete)
        else:
            try:
                flags = list(map(self._delete, rows_of(records)))
            except OnceflowError:
                raise
            except Exception as error:
                raise UserFunctionError(f"delete= of a PostgresSink has raised {type(error).__name__}") from error
        return list(map(bool, flags))

    def _lines(self, records: Batch, names: Sequence[str]) -> tuple[list[bytes], list[bytes]]:
        """See ``_copy_lines``."""
        columns = [(self._kinds[name], self._column(records, name)) for name in names]
        if names is self._columns:
            self._check_fields(records)
        for name, (_, values) in zip(self._key, columns, strict=False):
            if None in values:
                record = rows_of(records)[values.index(None)]
                raise SinkError(f"column {name!r} of the key has None in {_short(record)}, which equals no row")
        for number, (kind, values) in enumerate(columns):
            if kind is None:
                columns[number] = self._ready(records, names[number], values)
        while isinstance(found := _copy_lines(cast("list[tuple[str, list[Any]]]", columns), len(self._key)), int):
            columns[found] = self._ready(records, names[found], columns[found][1])
        return found

    def _ready(self, records: Batch, name: str, values: list[Any]) -> tuple[str, list[Any]]:
        """A column whose values need a look by themselves."""
        try:
            return "ready", self._encoders[name](values)
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise self._refused(records, name, values, error) from error

    @staticmethod
    def _column(records: Batch, name: str) -> list[Any]:
        if isinstance(records, Columns):
            return to_list(records[name]) if name in records else _missing(records.names, name)
        try:
            return [record[name] for record in records]
        except (KeyError, TypeError, IndexError):
            record = next(each for each in records if not isinstance(each, dict) or name not in each)
            if not isinstance(record, dict):
                raise SinkError(
                    f"a table takes records that are dicts, or columns, not {_short(record)}: make them dicts by map()"
                ) from None
            return _missing(record, name)

    def _check_fields(self, records: Batch) -> None:
        """A field that has no column would be lost."""
        known = {*self._columns} | ({self._flag} if self._flag else set())
        if isinstance(records, Columns):
            unknown = [name for name in records.names if name not in known]
        elif max(map(len, records), default=0) <= len(self._columns):
            # All columns are looked up, so there is no room for others.
            return
        else:
            unknown = [name for record in records for name in record if name not in known]
        if unknown:
            why = (
                "and the table has no such column: leave it out by map()"
                if unknown[0] not in self._table.columns
                else "which the table fills in itself: leave it out, or name all columns that are written in columns="
            )
            raise SinkError(f"records for table {self._table.name} have a field {unknown[0]!r}, {why}")

    def _refused(self, records: Batch, name: str, values: list[Any], error: Exception) -> SinkError:
        """Names the record."""
        for record, value in zip(rows_of(records), values, strict=True):
            try:
                self._encoders[name]([value])
            except (TypeError, ValueError, ArithmeticError, RecursionError) as mine:
                return SinkError(f"column {name!r} of table {self._table.name} does not take {_short(record)}: {mine}")
        return SinkError(f"column {name!r} of table {self._table.name}: {error}")


def _missing(names: Any, name: str) -> list[Any]:
    raise SinkError(
        f"a record lacks the field {name!r}, and has {', '.join(map(repr, names))}: give it, as None where there is "
        "nothing, or name the columns that are written in columns="
    )


def _short(record: Any) -> str:
    text = repr(record)
    return text if len(text) <= 300 else f"{text[:300]}…"
