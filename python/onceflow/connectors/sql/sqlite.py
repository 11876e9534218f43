"""SQLite: dynamic types, one writer at a time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection, Engine

from onceflow.connectors.sql import fits
from onceflow.connectors.sql.dialect import Dialect, definition_of, parts_of, rows_of_query
from onceflow.connectors.sql.fits import Fit
from onceflow.connectors.sql.table import Column, Shape, Wanted
from onceflow.exceptions import SinkError

__all__ = ["SqliteDialect"]

_WRITES = "onceflow_writes"
#: Of hidden columns: computed ones, stored or not.
_COMPUTED = (2, 3)
#: What of a statement is no word of it: texts, names in quotes, comments.
_NO_WORDS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_DROPS_ROWS = re.compile(r"on\s+conflict\s+(ignore|replace)\b", re.IGNORECASE)


class SqliteDialect(Dialect):
    """A transaction that writes is alone from its beginning (``BEGIN IMMEDIATE``)."""

    def check_database(self, database: sa.URL, where: str) -> None:
        path = database.database
        if not path or path == ":memory:" or "mode=memory" in path:
            raise SinkError(f"{where} lies in memory, so that output and markers end with the process; give a file")
        if not path.startswith("file:") and not Path(path).is_file():
            raise SinkError(f"{where} does not exist: there is no file {path}; make it first, with the table")

    def prepare(self, engine: Engine) -> Engine:
        @sa.event.listens_for(engine, "connect")
        def connected(session: Any, _: Any) -> None:
            # The module begins no transactions of its own; see "begin".
            session.isolation_level = None
            # Durable when it is committed, whatever the library was built with.
            session.execute("pragma synchronous = full")

        @sa.event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            writes = connection.get_execution_options().get(_WRITES)
            connection.exec_driver_sql("begin immediate" if writes else "begin")

        return engine

    def begin(self, connection: Connection) -> None:
        connection.execution_options(**{_WRITES: True})

    def shape(self, connection: Connection, wanted: Wanted) -> Shape:
        rows = rows_of_query(
            connection,
            'select name, type, "notnull", pk, hidden from pragma_table_xinfo(:table, :schema)',
            table=wanted.table,
            schema=wanted.schema or "main",
        )
        # The number of a row is never missing: the database makes one up.
        numbered = [name for name, declared, _, pk, _ in rows if pk and declared.upper() == "INTEGER"]
        is_numbered = len(numbered) == 1 and sum(1 for row in rows if row.pk) == 1
        columns = [
            Column(
                name,
                declared,
                fit_of(declared),
                not notnull and not (is_numbered and name in numbered),
                hidden in _COMPUTED,
                "make it INTEGER, REAL, TEXT, BLOB, BOOLEAN, DATE or DATETIME",
            )
            for name, declared, notnull, _, hidden in rows
        ]
        return Shape(tuple(columns), definition_of([*rows, (_statement(connection, wanted),)]))

    def check(self, connection: Connection, wanted: Wanted) -> None:
        kinds = rows_of_query(
            connection,
            "select type from pragma_table_list where name = :table and schema = :schema",
            table=wanted.table,
            schema=wanted.schema or "main",
        )
        if kinds and kinds[0][0] != "table":
            raise SinkError(f"{wanted.where} is a {kinds[0][0]}, no table of its own")
        if found := _DROPS_ROWS.search(_NO_WORDS.sub(" ", _statement(connection, wanted))):
            raise SinkError(
                f"{wanted.where} has a constraint with ON CONFLICT {found[1].upper()}: of rows that violate it the "
                "database would drop or replace some without a word. Make the table without that clause; to replace "
                "rows by their key, give the sink mode='upsert'"
            )

    def unique_keys(self, connection: Connection, wanted: Wanted) -> list[frozenset[str]]:
        names = {"table": wanted.table, "schema": wanted.schema or "main"}
        rows = rows_of_query(
            connection,
            "select i.name, x.name, x.coll from pragma_index_list(:table, :schema) i join pragma_index_xinfo(i.name, "
            ':schema) x where i."unique" and not i.partial and x.key',
            **names,
        )
        indices: dict[str, list[tuple[str | None, str]]] = {}
        for index, column, collation in rows:
            indices.setdefault(index, []).append((column, collation))
        # By another collation different texts are one key; of an expression there is no name.
        exact = [
            frozenset(str(column) for column, _ in columns)
            for columns in indices.values()
            if all(column is not None and collation.upper() == "BINARY" for column, collation in columns)
        ]
        number = rows_of_query(connection, "select name from pragma_table_xinfo(:table, :schema) where pk", **names)
        if len(number) == 1 and number[0][0] not in {name for columns in indices.values() for name, _ in columns}:
            exact.append(frozenset(number[0]))
        return exact

    def has_rules(self, connection: Connection, wanted: Wanted) -> bool:
        (checks,) = rows_of_query(
            connection,
            f"select count(*) from {_master(connection, wanted)} where tbl_name = :table and (type = 'trigger' or "  # noqa: S608
            "sql like '%check%')",
            table=wanted.table,
        )
        foreign = rows_of_query(connection, "select 1 from pragma_foreign_key_list(:table)", table=wanted.table)
        return bool(checks[0] or foreign)

    def insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table)

    def is_transient(self, error: sa.exc.DBAPIError) -> bool:
        return "is locked" in str(error.orig)


def _statement(connection: Connection, wanted: Wanted) -> str:
    """What the table was made by; empty if there is none."""
    statement = f"select sql from {_master(connection, wanted)} where type = 'table' and name = :table collate nocase"  # noqa: S608
    return "".join(sql for (sql,) in rows_of_query(connection, statement, table=wanted.table))


def _master(connection: Connection, wanted: Wanted) -> str:
    schema = connection.dialect.identifier_preparer.quote(wanted.schema or "main")
    return f"{schema}.sqlite_master"


def fit_of(declared: str) -> Fit | None:
    """What a column keeps: its type decides what SQLite makes of a value, so one of another type is refused."""
    name, _, _, _ = parts_of(declared)
    if name in ("date", "datetime", "timestamp", "boolean", "bool"):
        return {"date": fits.dates(), "boolean": fits.booleans(), "bool": fits.booleans()}.get(name, fits.moments())
    if "int" in name:
        return fits.integers(-(1 << 63), (1 << 63) - 1)
    if any(part in name for part in ("char", "clob", "text")):
        return fits.texts()
    if name == "blob":
        return fits.binaries()
    if any(part in name for part in ("real", "floa", "doub")):
        return fits.floats(nan=False, infinite=True)
    return None
