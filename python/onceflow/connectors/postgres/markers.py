"""The table of markers, beside the output: which run may write, what was applied, and which table it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row

from onceflow.connectors.outbox.marker import Marker
from onceflow.exceptions import SinkError

__all__ = ["MARKERS", "Markers", "Target", "all_rows"]

#: Name of the table.
MARKERS = "onceflow_markers"
#: Under this key lies what is known of the table that was written.
_TARGET_KEY = "table"


class Target(msgspec.Struct, frozen=True):
    """A table, so that one that was dropped and made anew, or emptied, is noticed.

    Attributes:
        name: With its schema.
        oid: In the database.
        database: The server's identity, and the database's in it; empty where the server does not tell.
        filled: Whether it had rows when it was last written.
    """

    name: str
    oid: int
    database: str
    filled: bool = False


class Markers:
    """Of one sink.

    Args:
        schema: In which the table lies.
        owner: See ``Marker.owner``.
    """

    def __init__(self, schema: str, owner: str) -> None:
        self.name = f"{schema}.{MARKERS}"
        self._table = sql.Identifier(schema, MARKERS)
        self._owner = owner

    def read(self, session: psycopg.Connection[Any]) -> dict[str, str]:
        """Key → text; nothing where there is no table yet. Changes nothing."""
        try:
            return self._fetch(session, "")
        except errors.UndefinedTable:
            return {}

    def jobs(self, session: psycopg.Connection[Any], sink: str, table: str) -> list[str]:
        """Jobs with a sink of a name that has written to a table, or may be about to: it has written to none yet."""
        statement = sql.SQL("select owner, max(text) filter (where key = {}) from {} group by owner").format(
            sql.Literal(_TARGET_KEY), self._table
        )
        try:
            with session.cursor(row_factory=tuple_row) as cursor:
                rows = cursor.execute(statement).fetchall()
        except errors.UndefinedTable:
            return []
        owners = [
            owner.partition("/")
            for owner, text in rows
            if text is None or msgspec.json.decode(text, type=Target).name == table
        ]
        return [job for job, _, name in owners if name == sink]

    def lock_all(self, session: psycopg.Connection[Any]) -> dict[str, str]:
        """All of them, which nobody else writes until the transaction ends."""
        return self._fetch(session, "order by key for update")

    def lock(self, session: psycopg.Connection[Any], begin: str, fence: str, worker: str) -> dict[str, str]:
        """Begins a transaction, and reads the fence, which other workers of the run may lock too, one worker's marker,
        and the table's."""
        ways = (("and key = {} for share", fence), ("and key = {} for update", worker), ("and key = {}", _TARGET_KEY))
        parts = [sql.SQL(begin), *(self._select(rest, key) for rest, key in ways)]
        with session.cursor(row_factory=tuple_row) as cursor:
            # One call to the server.
            cursor.execute(sql.SQL(";").join(parts))
            return dict(row for row in all_rows(cursor) if len(row) == 2)

    def keeping(self, marker: Marker, read: str | None) -> sql.Composed:
        """The statement that writes a marker in place of what was read; of no row, if another transaction has since."""
        return sql.SQL(
            "insert into {table} as m (owner, key, text) values ({owner}, {key}, {text}) on conflict (owner, key) "
            "do update set text = excluded.text where m.text = {read}"
        ).format(
            table=self._table,
            owner=sql.Literal(self._owner),
            key=sql.Literal(marker.key),
            text=sql.Literal(marker.text),
            read=sql.Literal(read),
        )

    def check_kept(self, cursor: psycopg.Cursor[Any]) -> None:
        """Whether it has.

        Raises:
            errors.SerializationFailure: Another transaction has written it since.
        """
        if cursor.rowcount != 1:
            raise errors.SerializationFailure(f"a marker in {self.name} was written by another transaction")

    def target(self, kept: dict[str, str]) -> Target | None:
        """What is known of the table; None if it is not."""
        text = kept.get(_TARGET_KEY)
        try:
            return None if text is None else msgspec.json.decode(text, type=Target)
        except msgspec.DecodeError as error:
            raise SinkError(f"a marker in {self.name} is damaged: {text!r}: {error}") from error

    def keep_target(self, session: psycopg.Connection[Any], target: Target) -> None:
        """Notes the table."""
        session.execute(
            sql.SQL(
                "insert into {} (owner, key, text) values (%s, %s, %s) on conflict (owner, key) do update "
                "set text = excluded.text"
            ).format(self._table),
            (self._owner, _TARGET_KEY, msgspec.json.encode(target).decode()),
        )

    @staticmethod
    def only(kept: dict[str, str]) -> dict[str, str]:
        """Markers alone."""
        return {key: text for key, text in kept.items() if key != _TARGET_KEY}

    def forget(self, owner: str | None = None) -> str:
        """How a person removes them, or those of another owner."""
        mine = sql.Literal(self._owner if owner is None else owner)
        return sql.SQL("delete from {} where owner = {}").format(self._table, mine).as_string(None)

    def forget_target(self) -> str:
        """How a person removes what is known of the table."""
        return f"{self.forget()} and key = '{_TARGET_KEY}'"

    def make(self, session: psycopg.Connection[Any]) -> None:
        """Makes the table if it is missing.

        Raises:
            SinkError: It cannot be, or it would not outlive a crash of the server.
        """
        statement = sql.SQL(
            "create table if not exists {} "
            "(owner text not null, key text not null, text text not null, primary key (owner, key))"
        ).format(self._table)
        kind = "select relpersistence from pg_catalog.pg_class where oid = pg_catalog.to_regclass(%s)"
        quoted = self._table.as_string(session)
        with session.cursor(row_factory=tuple_row) as cursor:
            if (row := cursor.execute(kind, (quoted,)).fetchone()) is None:
                try:
                    cursor.execute(statement)
                except (errors.UniqueViolation, errors.DuplicateTable) as error:
                    raise errors.SerializationFailure("another session has just made the table of markers") from error
                except errors.InsufficientPrivilege as error:
                    shown = statement.as_string(session)
                    raise SinkError(
                        f"the table of markers {self.name} is missing, and this user may not make it: have it made by "
                        f"{shown}; grant select, insert, update on {self.name} to the user"
                    ) from error
                row = cursor.execute(kind, (quoted,)).fetchone()
        if row is None or row[0] != "p":
            raise SinkError(
                f"the table of markers {self.name} is unlogged: after a crash of the server it is empty, and output "
                f"would be written again. Make it durable: alter table {self.name} set logged"
            )

    def _fetch(self, session: psycopg.Connection[Any], rest: str) -> dict[str, str]:
        with session.cursor(row_factory=tuple_row) as cursor:
            return dict(cursor.execute(self._select(rest)).fetchall())

    def _select(self, rest: str, *values: str) -> sql.Composed:
        statement = sql.SQL("select key, text from {} where owner = {} ").format(self._table, sql.Literal(self._owner))
        return statement + sql.SQL(rest).format(*map(sql.Literal, values))


def all_rows(cursor: psycopg.Cursor[Any]) -> Iterator[Any]:
    """Rows of all statements of one call."""
    while True:
        if cursor.description is not None:
            yield from cursor.fetchall()
        if not cursor.nextset():
            return
