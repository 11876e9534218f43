"""Up to which key all rows of a table are there: rows become visible in the order of commits, not of their keys.

A reader that goes on from the highest key that it has seen misses a row with a lower one that is committed later. There
are two exact bounds, and one that is as good as what is known of the writers:

- **A column of type xid8** with ``default pg_current_xact_id()`` first in the key: all transactions below
  ``pg_snapshot_xmin`` have ended, so no row of them is still to come. Whatever writes, however long it takes. Idea: the
  transactional outbox of event stores on PostgreSQL.
- **A key that a sequence numbers** in the statement that inserts: who inserts holds a lock on the table from before it
  draws the number until its transaction ends. So the highest key is noted, then the holders of such locks; when these
  have ended, all rows up to that key are there. Nobody is kept waiting but the reader. Idea: how an index is built
  concurrently.
- **A lag**: keys younger than that are left for later. Exact if no transaction takes longer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from onceflow.exceptions import SourceChangedError, SourceError

__all__ = ["Lagging", "Numbered", "Settled", "Transactions"]


class Settled(ABC):
    """Says where a poll ends."""

    @abstractmethod
    def bound(self, session: psycopg.Connection[Any]) -> sql.Composable | None:
        """A condition on rows that are settled; None if there are none new."""

    def check_waiting(self, session: psycopg.Connection[Any], rows: sql.Composable) -> None:  # noqa: B027 - optional
        """Refuses rows that are waited for and will never be settled.

        Raises:
            SourceError: There are some.
        """

    def table(self, session: psycopg.Connection[Any]) -> list[int] | None:
        """Which table it is that has such keys; None where keys go on through whatever becomes of it."""
        return None

    def check(self, session: psycopg.Connection[Any], position: list[str]) -> None:  # noqa: B027 - optional
        """Refuses a database that has not come as far as a position.

        Raises:
            SourceChangedError: It was put back from a backup.
        """


class Transactions(Settled):
    """By the transaction of each row, in a column of type xid8."""

    def __init__(self, column: str) -> None:
        self._column = column

    def bound(self, session: psycopg.Connection[Any]) -> sql.Composable | None:
        # Of the same snapshot as the rows themselves.
        return sql.SQL("r.{} < pg_snapshot_xmin(pg_current_snapshot())").format(sql.Identifier(self._column))

    def check(self, session: psycopg.Connection[Any], position: list[str]) -> None:
        query = "select %s::xid8 < pg_snapshot_xmax(pg_current_snapshot()), pg_snapshot_xmax(pg_current_snapshot())"
        is_known, newest = session.execute(query, (position[0],)).fetchone() or (True, "")
        if not is_known:
            raise _older(f"transaction {position[0]}", f"transaction {newest}")


class Numbered(Settled):
    """By a column that a sequence numbers, with the writers that were there waited for."""

    def __init__(self, oid: int, table: sql.Identifier, column: str) -> None:
        self._oid = oid
        self._table = table
        self._newest = sql.SQL("select max({})::text from {}").format(sql.Identifier(column), table)
        self._column = sql.Identifier(column)
        self._name = column
        #: The key that is waited for, and who was writing when it was seen.
        self._key: str | None = None
        self._writers: set[str] = set()

    def bound(self, session: psycopg.Connection[Any]) -> sql.Composable | None:
        if self._key is None:
            (self._key,) = session.execute(self._newest).fetchone() or (None,)
            # After the key: who draws a lower one had the lock before.
            self._writers = self._writing(session)
        if self._key is None or (self._writers and self._writers & self._writing(session)):
            return None
        key, self._key = self._key, None
        return sql.SQL("r.{} <= {}").format(self._column, sql.Literal(int(key)))

    def check(self, session: psycopg.Connection[Any], position: list[str]) -> None:
        # The bound of another run is of no use.
        self._key = None
        query = "select last_value from pg_sequences where format('%%I.%%I', schemaname, sequencename) = %s"
        (sequence,) = session.execute(
            "select pg_get_serial_sequence(%s::regclass::text, %s)", (self._oid, self._name)
        ).fetchone() or (None,)
        row = session.execute(query, (sequence,)).fetchone()
        # Without the right to read the sequence it is not told.
        if row is not None and row[0] is not None and row[0] < int(position[0]):
            raise _older(f"key {position[0]}", f"key {row[0]}")

    def table(self, session: psycopg.Connection[Any]) -> list[int] | None:
        # Numbers that begin anew have another file; what only rewrites the table (vacuum full) leaves it as it is.
        name = self._table.as_string(session)
        query = "select %s::regclass::oid::int8, pg_relation_filenode(pg_get_serial_sequence(%s, %s)::regclass)::int8"
        return list(session.execute(query, (name, name, self._name)).fetchone() or ())

    def _writing(self, session: psycopg.Connection[Any]) -> set[str]:
        """Transactions that may have rows of the table, its partitions, or tables that inherit from it, under way."""
        rows = session.execute(
            "with recursive tree (oid) as (select %s::oid union select i.inhrelid from pg_inherits i join tree on "
            "i.inhparent = tree.oid) select distinct l.virtualtransaction from pg_locks l where l.locktype = "
            "'relation' and l.granted and l.database = (select oid from pg_database where datname = "
            "current_database()) and l.pid is distinct from pg_backend_pid() and l.mode in ('RowExclusiveLock', "
            "'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') and l.relation in (select oid from tree)",
            (self._oid,),
        ).fetchall()
        return {transaction for (transaction,) in rows}


class Lagging(Settled):
    """By a column of times, of which the newest are left for later."""

    def __init__(self, column: str, lag: timedelta) -> None:
        self._column = column
        self._lag = lag

    def bound(self, session: psycopg.Connection[Any]) -> sql.Composable | None:
        return sql.SQL("r.{} < now() - {}::interval").format(
            sql.Identifier(self._column), sql.Literal(f"{self._lag.total_seconds():f} seconds")
        )

    def check_waiting(self, session: psycopg.Connection[Any], rows: sql.Composable) -> None:
        query = sql.SQL("select isfinite(max(r.{})) from {} r").format(sql.Identifier(self._column), rows)
        if (session.execute(query).fetchone() or (None,))[0] is False:
            raise SourceError(
                f"rows have the time 'infinity' in {self._column!r}, so they would be waited for without end: leave "
                "them out by query=, or give them a time"
            )


def _older(position: str, newest: str) -> SourceChangedError:
    return SourceChangedError(
        f"the checkpoint has read up to {position}, and the database has come to {newest}: it is older than the job's "
        "state, as when a backup was put back, and would give the same keys to other rows. Put the newest one back; or "
        "start over with resume_from='none'"
    )
