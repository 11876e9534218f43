"""Rows of a table, or of a query, in the order of a key that only grows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, cast

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.files.malformed import MalformedPolicy
from onceflow.connectors.files.record_times import EventTime
from onceflow.connectors.polling import Polled, PollingSource
from onceflow.connectors.postgres.exact import keep_exact
from onceflow.connectors.postgres.inspection import look_at_rows
from onceflow.connectors.postgres.server import Connect, Server
from onceflow.connectors.postgres.session import Session
from onceflow.connectors.postgres.settled import Lagging, Numbered, Settled, Transactions
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError
from onceflow.log.settings import check_seconds
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader
from onceflow.types import Plain

__all__ = ["PostgresSource"]

#: Rows of one query.
_ROWS = 10_000
_PARTITION = "0"
#: So that rows are the same records on any machine, however it is set up.
_BEGIN = (
    "begin isolation level read committed read only; set local timezone = 'UTC'; set local datestyle = 'ISO'; "
    "set local intervalstyle = 'postgres'; set local extra_float_digits = 1"
)
_OF_THE_TRANSACTION = "pg_current_xact_id()"
_KEYS = """
select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_catalog.pg_get_serial_sequence(%(table)s, a.attname) is not null,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid)
  from pg_catalog.pg_attribute a
  left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attrelid = pg_catalog.to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
"""
_DEFAULT = """
select pg_catalog.pg_get_expr(adbin, adrelid) from pg_catalog.pg_attrdef
 where adrelid = %(table)s and adnum = %(column)s
"""


class PostgresSource(Source):
    """Rows as dicts, in the order of a key that only grows; each row once, when no lower key can follow any more.

    The rows must stay as they are: one that is changed after it was read is not read again, and one that is deleted
    before it was read is not read at all. Where a run resumes within what one query gave, rows that differ are refused.

    Rows become visible when they are committed, which need not be in the order of their keys. What is exact, and what
    it needs (see ``onceflow.connectors.postgres.settled``):

    - a key of a ``serial`` or identity column of a table: rows get their number in the statement that inserts them, and
      the sequence has no CACHE above 1. A transaction that writes to the table holds the reader back until it ends;
    - a key that begins with a column ``xid8 default pg_current_xact_id()``, such as ``key=("txid", "id")``, in a table
      or a query: nothing else. Any transaction that writes in the server holds the reader back until it ends;
    - any other key of times with ``lag``: no transaction, from the time that it writes to its commit, takes longer.

    Args:
        connect: See ``PostgresSink``.
        table: Its name, with or without schema.
        query: Instead of a table: a select without parameters.
        key: Column, or columns, by which rows are ordered; unique, never null.
        columns: Those that are read; None: all.
        lag: See above.
        follow: True: rows that come later are read, too, and the job has no end. False: it ends when there are no more.
        every: How long after a query that gave nothing the next one is made.
        event_time: See ``PollingSource``.
        on_malformed: See ``PollingSource``.
        retry_for_s: How long a query is repeated while the server is away, before the job stops.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    wakes = True

    def __init__(
        self,
        connect: Connect,
        table: str | None = None,
        *,
        query: str | None = None,
        key: str | Sequence[str],
        columns: Sequence[str] | None = None,
        lag: timedelta | None = None,
        follow: bool = False,
        every: timedelta = timedelta(seconds=1),
        event_time: EventTime | None = None,
        on_malformed: MalformedPolicy = "fail",
        retry_for_s: float = 300.0,
    ) -> None:
        if (table is None) == (query is None):
            raise ConfigurationError("PostgresSource: give a table, or a query")
        self._keys = (key,) if isinstance(key, str) else tuple(key)
        if not self._keys or not all(isinstance(name, str) for name in self._keys):
            raise ConfigurationError(
                f"PostgresSource: key={key!r}: give the name of a column, or several", setting="key"
            )
        if table is not None and (not isinstance(table, str) or not table or table.count(".") > 1):
            raise ConfigurationError(
                f"PostgresSource: table={table!r}: give 'table' or 'schema.table'", setting="table"
            )
        if isinstance(columns, str):
            raise ConfigurationError(f"PostgresSource: columns={columns!r}: give a list of names", setting="columns")
        if lag is not None and (not isinstance(lag, timedelta) or lag < timedelta(0)):
            raise ConfigurationError(f"PostgresSource: lag={lag!r}: give a timedelta", setting="lag")
        check_seconds("PostgresSource: retry_for_s", retry_for_s)
        self._server = Server(connect)
        self._table = table
        self._query = query
        self._columns = None if columns is None else tuple(columns)
        self._lag = lag
        self._follow = follow
        self._every = every
        self._event_time = event_time
        self._policy: MalformedPolicy = on_malformed
        self._retry_for_s = retry_for_s
        # Checks what is left.
        polling = self._polling(lambda position: None)
        self.has_event_time, self.has_dead_letters = polling.has_event_time, polling.has_dead_letters
        self.deterministic = polling.deterministic

    def partitions(self) -> list[str]:
        """One."""
        return [_PARTITION]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        name = f"onceflow {context.job}/{context.step_id}"
        rows = _Rows(
            Session(self._server, name, self._retry_for_s, f"source '{context.job}/{context.step_id}'", SourceError),
            self,
        )
        try:
            rows.look()
            return _Reader(rows, self._polling(rows.poll).open_with_context(partition, position, context))
        except BaseException:
            rows.close()
            raise

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Source``."""
        what = f"{'the query' if self._table is None else f'table {self._table}'} by {', '.join(self._keys)}"
        rows = _Rows(Session(self._server, "onceflow check", 0.0, "the check", SourceError), self)
        try:
            yield from look_at_rows(self._server, what, rows.look, context)
        finally:
            rows.close()

    def _polling(self, poll: Any) -> PollingSource:
        return PollingSource(poll, every=self._every, event_time=self._event_time, on_malformed=self._policy)


class _Rows:
    """Queries of one reader."""

    def __init__(self, session: Session, source: PostgresSource) -> None:
        self._session = session
        self._source = source
        session.greet = keep_exact
        self._keys = source._keys
        self._is_checked = False
        #: Which table was read last, as far as that matters.
        self._known: list[int] | None = None

    def look(self) -> None:
        """Looks what the key is like.

        Raises:
            SourceError: There is no such table or column, or no way to tell when its rows are all there.
        """
        self._session.connect()
        self._session.run(self._look)

    def _look(self, session: psycopg.Connection[Any]) -> None:
        mine = self._source
        if mine._table is not None:
            table = sql.Identifier(*mine._table.split("."))
            quoted = table.as_string(session)
            (oid,) = session.execute("select to_regclass(%s)::oid", (quoted,)).fetchone() or (None,)
            if oid is None:
                raise SourceError(f"there is no table {mine._table}; name its schema: 'schema.table'")
            rows = session.execute(_KEYS, {"table": quoted}).fetchall()
            types = {name: kind for name, kind, *_ in rows}
            self._from: sql.Composable = table
        else:
            assert mine._query is not None
            oid, rows = 0, []
            cursor = session.execute(sql.SQL("select * from ({}) r limit 0").format(sql.SQL(mine._query)))
            oids = {column.name: column.type_code for column in cursor.description or ()}
            named = session.execute(
                "select oid, format_type(oid, null) from pg_type where oid = any(%s)", (list(oids.values()),)
            )
            by_oid = dict(named.fetchall())
            types = {name: by_oid[code] for name, code in oids.items()}
            default = self._default_of(cursor)
            self._from = sql.SQL("({})").format(sql.SQL(mine._query))
        for name in (*self._keys, *(mine._columns or ())):
            if name not in types:
                raise SourceError(f"there is no column {name!r}; there are {', '.join(map(repr, types))}")
        nullable = [name for name, _, is_filled, _, _ in rows if name in self._keys and not is_filled]
        if nullable:
            raise SourceError(
                f"column {nullable[0]!r} of the key can be null, and rows without a key would be left out"
            )
        if mine._table is not None:
            default = next((default for name, *_, default in rows if name == self._keys[0]), None)
        self._types = [types[name] for name in self._keys]
        first = self._keys[0]
        is_numbered = len(self._keys) == 1 and any(name == first and numbered for name, _, _, numbered, _ in rows)
        if self._types[0] == "xid8":
            if default != _OF_THE_TRANSACTION:
                wanted = "as it is, from a table and not a view or a union" if mine._table is None else ""
                raise SourceError(
                    f"column {first!r} has no default {_OF_THE_TRANSACTION}, so its values need not be of the "
                    "transactions that write the rows, and rows with lower ones would be left out: alter table … "
                    f"alter column … set default {_OF_THE_TRANSACTION}"
                    f"{wanted and f'; and select the column {wanted}'}"
                )
            self._settled: Settled = Transactions(first)
        elif mine._lag is not None:
            self._settled = Lagging(first, mine._lag)
        elif is_numbered and isinstance(self._from, sql.Identifier):
            self._settled = Numbered(oid, self._from, first)
        else:
            raise SourceError(
                f"rows with lower values of {first!r} may be committed later, and would be left out: read a table by "
                "its serial or identity column; or begin the key with a column xid8 default pg_current_xact_id(); or "
                "say by lag= how long after its time a row is there at the latest"
            )

    def _default_of(self, cursor: psycopg.Cursor[Any]) -> str | None:
        """Of the column of a table that the first column of the key is in the query; None if it is none."""
        found = cursor.pgresult
        names = [column.name for column in cursor.description or ()]
        if found is None or self._keys[0] not in names:
            return None
        number = names.index(self._keys[0])
        place = {"table": found.ftable(number), "column": found.ftablecol(number)}
        (default,) = cursor.execute(_DEFAULT, place).fetchone() or (None,)
        return cast("str | None", default)

    def poll(self, position: Plain) -> Polled | None:
        """The rows that follow; see ``PollingSource``."""
        return self._session.run(lambda session: self._read(session, position))

    def _read(self, session: psycopg.Connection[Any], position: Any) -> Polled | None:
        # A position of an older version is a key alone.
        kept = position if isinstance(position, dict) else {"key": position, "table": None}
        session.execute(_BEGIN)
        try:
            polled = self._rows(session, kept["key"])
            # The rows have locked the table that they are of.
            table = self._settled.table(session)
        finally:
            session.rollback()
        known = kept["table"] or self._known
        if known is not None and known != table:
            raise self._made_anew(kept["key"], is_other=known[:1] != (table or [])[:1])
        self._known = table
        if polled is None or polled.position is None or table is None:
            return polled
        return polled._replace(position={"key": polled.position, "table": cast("Plain", table)})

    def _made_anew(self, key: list[str] | None, *, is_other: bool) -> SourceChangedError:
        what = (
            "was deleted and made anew, or replaced by another one"
            if is_other
            else "has begun its numbers anew (truncate … restart identity, alter sequence … restart)"
        )
        return SourceChangedError(
            f"table {self._source._table} {what}"
            f"{'' if key is None else f' since its rows were read up to key {key[0]}'}: what was not read before is "
            "lost, and rows that have got such keys again would be left out. Start over with resume_from='none'"
        )

    def _rows(self, session: psycopg.Connection[Any], position: list[str] | None) -> Polled | None:
        mine = self._source
        if not self._is_checked and position is not None:
            self._settled.check(session, position)
        self._is_checked = True
        names = sql.SQL(", ").join(sql.SQL("r.{}").format(sql.Identifier(name)) for name in self._keys)
        shown = sql.SQL("r.*") if mine._columns is None else sql.SQL(", ").join(map(sql.Identifier, mine._columns))
        after: list[sql.Composable] = []
        if position is not None:
            values = sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(kind))
                for value, kind in zip(position, self._types, strict=True)
            )
            after.append(sql.SQL("({}) > ({})").format(names, values))
        texts = sql.SQL(", ").join(sql.SQL("r.{}::text").format(sql.Identifier(name)) for name in self._keys)
        bound = self._settled.bound(session)
        if bound is None:
            return self._nothing(session, position, after)
        statement = sql.SQL("select {}, {} from {} r where {} order by {} limit {}").format(
            shown, texts, self._from, sql.SQL(" and ").join([*after, bound]), names, sql.Literal(_ROWS)
        )
        with session.cursor(row_factory=tuple_row) as cursor:
            rows = cursor.execute(statement).fetchall()
            fields = [column.name for column in (cursor.description or ())[: -len(self._keys)]]
        if not rows:
            return self._nothing(session, position, after)
        count = len(self._keys)
        records = [dict(zip(fields, row, strict=False)) for row in rows]
        # Where the job ends with the last one, it is asked at once whether this was it.
        return Polled(records, list(rows[-1][-count:]), more=len(rows) == _ROWS or not mine._follow)

    def _nothing(
        self, session: psycopg.Connection[Any], position: list[str] | None, after: list[sql.Composable]
    ) -> Polled | None:
        """What to do where nothing can be read now."""
        there = sql.SQL("select exists (select from {} r where {})").format(
            self._from, sql.SQL(" and ").join(after or [sql.SQL("true")])
        )
        (is_unsettled,) = session.execute(there).fetchone() or (False,)
        if is_unsettled:
            self._settled.check_waiting(session, self._from)
        # Rows that are there and not settled yet are waited for, also where the job ends with the last one.
        return Polled([], cast("Plain", position)) if is_unsettled or self._source._follow else None

    def close(self) -> None:
        """Ends the connection."""
        self._session.close()


class _Reader(SourceReader):
    """Closes the connection, too."""

    def __init__(self, rows: _Rows, reader: SourceReader) -> None:
        self._rows = rows
        self._reader = reader

    def read(self, max_records: int) -> SourceBatch | None:
        return self._reader.read(max_records)

    def position(self) -> Plain:
        return self._reader.position()

    def close(self) -> None:
        self._reader.close()
        self._rows.close()
