"""Records into the lines of a part, all values of a column at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from onceflow.columns import Columns, rows_of, to_list
from onceflow.connectors.postgres.catalogue import Table
from onceflow.connectors.postgres.staged import Part
from onceflow.connectors.postgres.texts import encoder
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
        self._encoders = {name: encoder(table.columns[name].type) for name in self._columns}
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
        return Part(name.schema, name.name, self._columns, types, [], len(self._key), {})

    def write(self, part: Part, records: Batch) -> int:
        """Adds records to a part; about how many bytes it grows by.

        Raises:
            SinkError: A record is not of the table's columns, or a value is none that its column keeps.
        """
        deleted = self._deleted(records)
        if not self._key:
            lines = self._lines(records, self._columns)
            # One text of all of them takes a third of the time of many on the way to the server.
            part.rows.append("\n".join(lines))
            return sum(map(len, lines))
        keys = self._lines(records, self._key)
        rest: list[str | None]
        if deleted is None or not any(deleted):
            rest = list(self._rests(records))
        else:
            # Of what is deleted nothing but the key is needed.
            rows = rows_of(records)
            texts = iter(self._rests([row for row, gone in zip(rows, deleted, strict=True) if not gone]))
            rest = [None if gone else next(texts) for gone in deleted]
        before = len(part.keyed)
        part.keyed.update(zip(keys, rest, strict=True))
        nbytes = sum(map(len, keys)) + sum(len(text) for text in rest if text is not None)
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

    def _rests(self, records: Batch) -> list[str]:
        if not self._rest:
            self._check_fields(records)
            return [""] * len(records)
        return self._lines(records, self._rest)

    def _lines(self, records: Batch, names: Sequence[str]) -> list[str]:
        if names is not self._key:
            self._check_fields(records)
        texts = []
        for name in names:
            values = self._column(records, name)
            if names is self._key and None in values:
                record = rows_of(records)[values.index(None)]
                raise SinkError(f"column {name!r} of the key has None in {_short(record)}, which equals no row")
            try:
                texts.append(self._encoders[name](values))
            except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
                raise self._refused(records, name, values, error) from error
        if names is self._rest:
            # It follows the key.
            texts.insert(0, [""] * len(records))
        return texts[0] if len(texts) == 1 else list(map("\t".join, zip(*texts, strict=True)))

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
