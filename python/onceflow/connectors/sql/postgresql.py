"""PostgreSQL, by any driver of SQLAlchemy."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Engine

from onceflow.connectors.sql import fits
from onceflow.connectors.sql.dialect import Dialect, definition_of, parts_of, rows_of_query
from onceflow.connectors.sql.fits import Fit
from onceflow.connectors.sql.table import Column, Shape, Wanted
from onceflow.exceptions import SinkError

__all__ = ["PostgresqlDialect"]

#: For this transaction: a lock is not waited for without end, a paused process does not hold one for ever, and the
#: answer to a commit comes when it is durable.
_BEGIN = """
select set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '{idle_s}s', true),
case when current_setting('synchronous_commit') = 'off' then set_config('synchronous_commit', 'local', true) end
"""
_TABLE = "to_regclass(coalesce(quote_ident(:schema) || '.', '') || quote_ident(:table))"
_COLUMNS = f"""
select attname::text, format_type(atttypid, atttypmod), attnotnull, attgenerated <> '' or attidentity = 'a',
    coalesce((select not collisdeterministic from pg_collation c where c.oid = attcollation), false)
from pg_attribute where attrelid = {_TABLE} and attnum > 0 and not attisdropped order by attnum
"""  # noqa: S608
_KEYS = f"""
select i.indexrelid, a.attname::text from pg_index i
cross join unnest(i.indkey::int2[]) with ordinality k(number, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
where i.indrelid = {_TABLE} and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
and i.indexprs is null and k.place <= i.indnkeyatts
"""  # noqa: S608
_RULES = f"""
select exists (select from pg_constraint where conrelid = {_TABLE} and contype in ('c', 'f', 'x', 't'))
or exists (select from pg_trigger where tgrelid = {_TABLE} and not tgisinternal)
or exists (select from pg_class where oid = {_TABLE} and (relkind = 'p' or relrowsecurity))
"""  # noqa: S608
#: Serialization, deadlock, locks, shutdown and start of the server, too many connections.
_TRANSIENT = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "57P05", "25P03", "53300", "57014"}


class PostgresqlDialect(Dialect):
    """The fence's row is locked (``FOR UPDATE``) and everything is read again behind the lock."""

    exact_text = sa.String(400, collation="C")

    def prepare(self, engine: Engine) -> Engine:
        # Each statement sees what was committed before it: also the one behind a lock that was waited for.
        return engine.execution_options(isolation_level="READ COMMITTED")

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql(_BEGIN.format(idle_s=self.idle_s))

    def shape(self, connection: Connection, wanted: Wanted) -> Shape:
        rows = rows_of_query(connection, _COLUMNS, table=wanted.table, schema=wanted.schema)
        columns = [
            Column(
                name,
                declared + (" of a collation that is not deterministic" if is_loose else ""),
                fit_of(declared, is_loose=is_loose),
                not required,
                generated,
                _ADVICE.get(declared, ""),
            )
            for name, declared, required, generated, is_loose in rows
        ]
        return Shape(tuple(columns), definition_of(rows))

    def check(self, connection: Connection, wanted: Wanted) -> None:
        found = rows_of_query(
            connection,
            f"select relkind::text, relpersistence::text from pg_class where oid = {_TABLE}",  # noqa: S608
            table=wanted.table,
            schema=wanted.schema,
        )
        if found and found[0][0] not in ("r", "p"):
            raise SinkError(f"{wanted.where} is a view or a foreign table, no table of its own")
        if found and found[0][1] != "p":
            raise SinkError(
                f"{wanted.where} is unlogged or temporary: after a crash of the server it is empty, and the markers "
                "say that everything is there. Make it a logged one: ALTER TABLE … SET LOGGED"
            )
        ((encoding,),) = rows_of_query(connection, "select current_setting('server_encoding')")
        if encoding != "UTF8":
            raise SinkError(f"the database has encoding {encoding}, which does not hold every text; take one with UTF8")

    def unique_keys(self, connection: Connection, wanted: Wanted) -> list[frozenset[str]]:
        keys: dict[int, set[str]] = {}
        for index, column in rows_of_query(connection, _KEYS, table=wanted.table, schema=wanted.schema):
            keys.setdefault(index, set()).add(column)
        return [frozenset(columns) for columns in keys.values()]

    def has_rules(self, connection: Connection, wanted: Wanted) -> bool:
        ((found,),) = rows_of_query(connection, _RULES, table=wanted.table, schema=wanted.schema)
        return bool(found)

    def insert(self, table: sa.Table) -> Any:
        return postgresql.insert(table)

    def nothing(self, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        return sa.cast(sa.null(), column.type).label(column.name)

    def before_rollback(self, connection: Connection) -> None:
        connection.exec_driver_sql("set constraints all immediate")

    def is_transient(self, error: sa.exc.DBAPIError) -> bool:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""
        return state in _TRANSIENT or state.startswith("08")


_ADVICE = {
    "real": "make it double precision",
    "character": "make it text or character varying",
}


def fit_of(declared: str, *, is_loose: bool = False) -> Fit | None:
    """What a column keeps."""
    name, first, second, rest = parts_of(declared)
    digits = 6 if first is None else first
    known: dict[str, Fit] = {
        "smallint": fits.integers(-(1 << 15), (1 << 15) - 1),
        "integer": fits.integers(-(1 << 31), (1 << 31) - 1),
        "bigint": fits.integers(-(1 << 63), (1 << 63) - 1),
        "double precision": fits.floats(nan=True, infinite=True),
        "text": fits.texts(nul=False, loose=is_loose),
        "character varying": fits.texts(first, nul=False, loose=is_loose),
        "bytea": fits.binaries(),
        "boolean": fits.booleans(),
        "date": fits.dates(),
        "timestamp without time zone": fits.moments(digits),
        "timestamp with time zone": fits.instants(digits),
    }
    if name == "timestamp":
        return known.get(f"timestamp {rest}")
    if name == "numeric":
        return None if (second or 0) < 0 else fits.decimals(first, second)
    return known.get(name) if not rest or name.startswith("timestamp") else None
