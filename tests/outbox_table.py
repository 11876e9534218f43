"""A target of an outbox as a user writes one: rows into SQLite, with the markers in a table of their own."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onceflow.connectors.outbox import Marker, OutboxSink, OutboxTarget
from onceflow.connectors.sql import SqlSink

__all__ = ["RowsTable", "rows_sink", "shown_rows", "sql_sink"]


class RowsTable(OutboxTarget):
    """Appends rows, without any key that would hide one that is written twice.

    Args:
        path: The database.
        columns: Of the records.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        # Opened on the job's thread, written on the checkpoint thread, one at a time.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._columns = columns
        self._db.execute(f"create table if not exists written ({', '.join(columns)})")
        self._db.execute("create table if not exists markers (owner, key, text, primary key (owner, key))")

    def read_markers(self, owner: str) -> dict[str, str]:
        return dict(self._db.execute("select key, text from markers where owner = ?", (owner,)))

    def fence(self, marker: Marker) -> None:
        with self._transaction():
            if marker.is_due(self.read_markers(marker.owner)):
                self._keep(marker)

    def apply(self, records: list[Any], marker: Marker) -> None:
        with self._transaction():
            if marker.is_due(self.read_markers(marker.owner)):
                rows = [tuple(record[column] for column in self._columns) for record in records]
                self._db.executemany(f"insert into written values ({', '.join('?' * len(self._columns))})", rows)
                self._keep(marker)

    def _keep(self, marker: Marker) -> None:
        self._db.execute("insert or replace into markers values (?, ?, ?)", (marker.owner, marker.key, marker.text))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def close(self) -> None:
        self._db.close()


def rows_sink(path: Path, columns: tuple[str, ...]) -> OutboxSink:
    """A sink into such a table."""
    return OutboxSink(functools.partial(RowsTable, path, columns))


def sql_sink(path: Path, columns: tuple[str, ...]) -> SqlSink:
    """The sink that onceflow has for such tables; the table is made where it is missing."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"create table if not exists written ({columns[0]} text, {' integer, '.join(columns[1:])} integer)")
    return SqlSink(f"sqlite:///{path}", "written")


def shown_rows(path: Path) -> list[tuple]:
    """The rows, in the order in which they were written."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return list(db.execute("select * from written order by rowid"))
