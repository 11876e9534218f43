"""A table of a database, as far as what is written to it goes; and records as its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from onceflow.connectors.sql.fits import Fit
from onceflow.exceptions import SinkError

__all__ = ["Column", "Mode", "Row", "Shape", "Target", "Wanted"]

Mode = Literal["append", "upsert"]
#: Column → value.
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """Attributes:
    name: Of the column.
    declared: Its type, as the database tells it.
    fit: What it takes; None if that is not known.
    nullable: Whether a value may be missing.
    generated: The database computes it, always.
    advice: What to declare instead, where ``fit`` is None.
    """

    name: str
    declared: str
    fit: Fit | None
    nullable: bool
    generated: bool = False
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the catalogue says of a table now.

    Attributes:
        columns: In order; none if there is no such table.
        definition: Changes with any of them.
    """

    columns: tuple[Column, ...]
    definition: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a sink is to write, as its user says."""

    table: str
    schema: str | None
    mode: Mode
    key: tuple[str, ...]
    columns: tuple[str, ...] | None

    @property
    def where(self) -> str:
        """For messages."""
        return f"table {self.table!r}" if self.schema is None else f"table {self.table!r} of schema {self.schema!r}"


@dataclass(frozen=True)
class Target:
    """A table that was found to be as it is wanted.

    Args:
        wanted: What the user says.
        shape: What the catalogue says.

    Raises:
        SinkError: It has no such columns, or some that cannot be written.
    """

    wanted: Wanted
    shape: Shape
    written: dict[str, Column] = field(init=False)
    table: sa.Table = field(init=False)

    def __post_init__(self) -> None:
        known = {column.name: column for column in self.shape.columns}
        where = self.wanted.where
        if not known:
            raise SinkError(f"{where} does not exist; make it first, with the columns of the records")
        names = self.wanted.columns or tuple(name for name, column in known.items() if not column.generated)
        if missing := [name for name in (*names, *self.wanted.key) if name not in known]:
            raise SinkError(f"{where} has no column {missing}; it has {list(known)}")
        if outside := [name for name in self.wanted.key if name not in names]:
            raise SinkError(f"key {outside} is not among the columns that are written: {list(names)}")
        written = {name: known[name] for name in names}
        for name, column in written.items():
            if column.generated:
                raise SinkError(f"the database computes column {name!r} of {where}: leave it out of columns")
            if column.fit is None:
                raise SinkError(
                    f"column {name!r} of {where} has type {column.declared or 'none'}, which would not keep every "
                    f"value as it is, or is not known here: {column.advice or 'make it another one'}, or leave it out "
                    "of columns"
                )
            if name in self.wanted.key and not column.fit.is_exact:
                raise SinkError(
                    f"column {name!r} of {where} is part of the key and has type {column.declared}: the database takes "
                    f"different values of it for the same; {column.advice or 'take another type'}"
                )
        object.__setattr__(self, "written", written)
        columns = [sa.Column(name, column.fit.type) for name, column in written.items() if column.fit is not None]
        table = sa.Table(self.wanted.table, sa.MetaData(), *columns, schema=self.wanted.schema)
        object.__setattr__(self, "table", table)

    def rows(self, records: Sequence[Any]) -> list[Row]:
        """The rows that records are, as they are to be written: of those with one key the last one, in order of keys.

        Raises:
            SinkError: A record is none, has other fields than the columns, or a value that its column would change.
        """
        names = self.written.keys()
        for record in records:
            if not isinstance(record, dict) or record.keys() != names:
                self._refuse_record(record)
        for name, column in self.written.items():
            self._check_values(name, column, [record[name] for record in records])
        if self.wanted.mode == "append":
            return list(records)
        key = self.wanted.key
        newest = {tuple(record[name] for name in key): record for record in records}
        # Two transactions that lock rows in one order do not wait for one another.
        return [newest[values] for values in sorted(newest)]

    def _check_values(self, name: str, column: Column, values: list[Any]) -> None:
        assert column.fit is not None
        accepts, optional = column.fit.accepts, column.nullable and name not in self.wanted.key
        for value in values:
            if not ((value is None and optional) or accepts(value)):
                what = "None" if value is None else f"{_shown(value)} ({type(value).__name__})"
                raise SinkError(
                    f"column {name!r} of {self.wanted.where}, of type {column.declared}, does not take {what}: it "
                    f"takes {column.fit.takes}{', and None' if optional else ''}, which it keeps as they are"
                )

    def _refuse_record(self, record: Any) -> None:
        if not isinstance(record, dict):
            raise SinkError(f"a record is {_shown(record)}: map it to a dict with the columns of {self.wanted.where}")
        missing = [name for name in self.written if name not in record]
        unknown = [name for name in record if name not in self.written]
        raise SinkError(
            f"a record does not have the columns {list(self.written)} of {self.wanted.where}: "
            + (f"it lacks {missing}" if missing else "")
            + (" and " if missing and unknown else "")
            + (f"it has {unknown} besides" if unknown else "")
            + ". Map it to these columns; those that the database fills in are left out by columns=[...]"
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"
