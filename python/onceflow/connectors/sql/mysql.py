"""MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Engine

from onceflow.connectors.sql import fits
from onceflow.connectors.sql.dialect import Dialect, definition_of, parts_of, rows_of_query
from onceflow.connectors.sql.fits import Fit
from onceflow.connectors.sql.table import Column, Shape, Wanted
from onceflow.exceptions import SinkError

__all__ = ["MysqlDialect"]

#: A value that does not fit is an error in every engine, 0 is a number like others; what a session has besides stays.
_MODES = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO"
#: A paused process does not hold its locks for ever, and a lock is not waited for without end.
_SESSION = (
    f"set session sql_mode = concat(@@sql_mode, ',{_MODES}')",
    "set session innodb_lock_wait_timeout = 10",
)
#: MySQL has no bound for transactions alone: sessions that are kept between checkpoints end by it too, and come back.
_IDLE = {True: "set session idle_write_transaction_timeout = {}", False: "set session wait_timeout = {}"}
_PLACE = "table_schema = coalesce(:schema, database()) and table_name = :table"
_INTEGERS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "integer": 32, "bigint": 64}
_BYTES = {"tiny": (1 << 8) - 1, "": (1 << 16) - 1, "medium": (1 << 24) - 1, "long": (1 << 32) - 1}
#: Deadlock, waits for locks, connections lost, killed or too many, shutdown.
_TRANSIENT = {
    1205,
    1213,
    1040,
    1053,
    1077,
    1079,
    1152,
    1158,
    1159,
    1160,
    1161,
    1927,
    2002,
    2003,
    2006,
    2013,
    2055,
    4031,
}
_FIRST = datetime(1000, 1, 1)


class MysqlDialect(Dialect):
    """The fence's row is locked (``FOR UPDATE``) and everything is read again behind the lock."""

    upserts_by_any_key = True
    # Binary: upper and lower case differ, and owners are never longer.
    exact_text = mysql.VARBINARY(400)
    binary_owners = True
    table_arguments = {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}  # noqa: RUF012 - never changed

    def prepare(self, engine: Engine) -> Engine:
        @sa.event.listens_for(engine, "connect")
        def connected(session: Any, _: Any) -> None:
            cursor = session.cursor()
            idle = _IDLE[bool(getattr(engine.dialect, "is_mariadb", False))].format(self.idle_s)
            for statement in (*_SESSION, idle):
                cursor.execute(statement)
            cursor.close()

        # Each statement sees what was committed before it: also the one behind a lock that was waited for.
        return engine.execution_options(isolation_level="READ COMMITTED")

    def shape(self, connection: Connection, wanted: Wanted) -> Shape:
        rows = rows_of_query(
            connection,
            "select column_name, column_type, is_nullable, extra, character_set_name, collation_name from "  # noqa: S608
            f"information_schema.columns where {_PLACE} order by ordinal_position",
            table=wanted.table,
            schema=wanted.schema,
        )
        ((packet,),) = rows_of_query(connection, "select @@max_allowed_packet")
        columns = [
            Column(
                name,
                _text(declared) + (f" of collation {collation}" if collation else ""),
                # The driver writes a name with that character in another way where there are many rows.
                None if "%" in name else fit_of(_text(declared), charset, collation or "", int(packet) // 4),
                nullable == "YES",
                "GENERATED" in extra.upper().split() or any(word in extra.upper() for word in ("VIRTUAL", "STORED")),
                "give it a name without %" if "%" in name else _advice(_text(declared), charset),
            )
            for name, declared, nullable, extra, charset, collation in rows
        ]
        return Shape(tuple(columns), definition_of([*rows, (packet,)]))

    def check(self, connection: Connection, wanted: Wanted) -> None:
        found = rows_of_query(
            connection,
            f"select table_type, engine from information_schema.tables where {_PLACE}",  # noqa: S608
            table=wanted.table,
            schema=wanted.schema,
        )
        if found and "BASE TABLE" not in found[0][0]:
            raise SinkError(f"{wanted.where} is a {found[0][0].lower()}, no table of its own")
        if found and str(found[0][1]).lower() != "innodb":
            raise SinkError(
                f"{wanted.where} has engine {found[0][1]}, which has no transactions that survive a crash: ALTER TABLE "
                "… ENGINE=InnoDB"
            )

    def unique_keys(self, connection: Connection, wanted: Wanted) -> list[frozenset[str]]:
        rows = rows_of_query(
            connection,
            "select index_name, column_name, sub_part from information_schema.statistics where non_unique = 0 and "  # noqa: S608
            f"{_PLACE}",
            table=wanted.table,
            schema=wanted.schema,
        )
        keys: dict[str, set[str]] = {}
        partial = set()
        for index, column, prefix in rows:
            keys.setdefault(index, set()).add(str(column))
            if prefix is not None or column is None:
                partial.add(index)
        # A key of the first characters, or of an expression, is one that no other may be taken for.
        return [frozenset({f"part of {index}"} if index in partial else columns) for index, columns in keys.items()]

    def has_rules(self, connection: Connection, wanted: Wanted) -> bool:
        names = {"table": wanted.table, "schema": wanted.schema}
        rules = rows_of_query(
            connection,
            "select 1 from information_schema.table_constraints where constraint_type in ('FOREIGN KEY', 'CHECK') and "  # noqa: S608
            f"{_PLACE}",
            **names,
        )
        triggers = rows_of_query(
            connection,
            "select 1 from information_schema.triggers where event_object_schema = coalesce(:schema, database()) and "
            "event_object_table = :table",
            **names,
        )
        return bool(rules or triggers)

    def insert(self, table: sa.Table) -> Any:
        return mysql.insert(table)

    def upsert(self, insert: Any, key: Sequence[str], others: Sequence[str]) -> sa.Executable:
        # Where all columns are the key, it becomes what it is.
        return insert.on_duplicate_key_update({name: insert.inserted[name] for name in others or key})  # type: ignore[no-any-return]

    def is_transient(self, error: sa.exc.DBAPIError) -> bool:
        arguments: tuple[Any, ...] = getattr(error.orig, "args", ())
        return bool(arguments) and arguments[0] in _TRANSIENT


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _advice(declared: str, charset: str | None) -> str:
    name, *_ = parts_of(declared)
    if charset not in (None, "utf8mb4"):
        return f"its character set {charset} does not hold every text: make it utf8mb4"
    return {
        "float": "make it DOUBLE",
        "double": "make it DOUBLE without digits",
        "char": "make it VARCHAR",
        "binary": "make it VARBINARY",
        "timestamp": "it goes by the session's zone: make it DATETIME(6)",
        "varchar": "of text that has to be exact give it collation utf8mb4_nopad_bin or utf8mb4_0900_bin",
    }.get(name, "")


def fit_of(declared: str, charset: str | None, collation: str, longest: int) -> Fit | None:  # noqa: PLR0911 - a table
    """What a column keeps.

    Args:
        declared: Its type.
        charset: Of text.
        collation: Of text; as a key it must tell apart what differs, also by spaces at the end.
        longest: Bytes of a value at most that surely come through.
    """
    name, first, second, _ = parts_of(declared)
    unsigned = "unsigned" in declared
    name = name.removesuffix(" zerofill").removesuffix(" unsigned")
    if bits := _INTEGERS.get(name):
        least, most = (0, (1 << bits) - 1) if unsigned else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        return fits.integers(least, most, bools=name == "tinyint" and first == 1)
    if name == "double" and first is None and not unsigned:
        return fits.floats(nan=False, infinite=False)
    if name == "decimal":
        return fits.decimals(10 if first is None else first, second or 0, unsigned=unsigned)
    if name == "date":
        return fits.dates(first=date(1000, 1, 1))
    if name == "datetime":
        return fits.moments(first or 0, first=_FIRST)
    loose = not collation.endswith(("nopad_bin", "0900_bin"))
    if name == "varchar":
        return fits.texts(first, size=longest, loose=loose) if charset == "utf8mb4" else None
    if name.endswith("text") and name.removesuffix("text") in _BYTES:
        size = min(_BYTES[name.removesuffix("text")], longest)
        return fits.texts(size=size, loose=loose) if charset == "utf8mb4" else None
    if name == "varbinary":
        return fits.binaries(min(first or 0, longest))
    if name.endswith("blob") and name.removesuffix("blob") in _BYTES:
        return fits.binaries(min(_BYTES[name.removesuffix("blob")], longest))
    return None
