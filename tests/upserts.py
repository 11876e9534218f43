"""An idempotent sink as a user writes one: upserts into SQLite, older runs refused in the same transaction."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import onceflow as of
from onceflow.exceptions import FencedError
from onceflow.sinks import IdempotentSink, SinkContext, SinkWriter

__all__ = ["UpsertSink", "upserted"]


class UpsertSink(IdempotentSink):
    """A row for each value of the first column, replaced by the next one; ``written`` has each row ever written.

    Args:
        path: The database.
        columns: Of the records.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._path = path
        self._columns = columns

    def open(self, context: SinkContext) -> SinkWriter:
        return _Upserts(self._path, self._columns, (context.lineage, context.job_epoch))


class _Upserts(SinkWriter):
    def __init__(self, path: Path, columns: tuple[str, ...], run: tuple[int, int]) -> None:
        # Opened on the job's thread, written on the checkpoint thread, one at a time.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._columns = columns
        self._run = run
        self._rows: list[tuple[object, ...]] = []
        self._connection.execute("create table if not exists fence (lineage integer, epoch integer)")
        self._connection.execute(
            f"create table if not exists upserted ({', '.join(columns)}, primary key ({columns[0]}))"
        )
        self._connection.execute(f"create table if not exists written ({', '.join(columns)})")

    def write(self, records):
        rows = records.to_rows() if isinstance(records, of.Columns) else records
        self._rows += [tuple(row[column] for column in self._columns) for row in rows]

    def flush(self):
        rows, self._rows = self._rows, []
        marks = ", ".join("?" * len(self._columns))
        self._connection.execute("begin immediate")
        newest = self._connection.execute("select lineage, epoch from fence order by 1 desc, 2 desc").fetchone()
        if newest is not None and newest > self._run:
            self._connection.execute("rollback")
            raise FencedError(f"run {newest} writes here, this is {self._run}")
        self._connection.execute("delete from fence")
        self._connection.execute("insert into fence values (?, ?)", self._run)
        self._connection.executemany(f"insert or replace into upserted values ({marks})", rows)
        self._connection.executemany(f"insert into written values ({marks})", rows)
        self._connection.execute("commit")

    def close(self):
        self._connection.close()


def upserted(path: Path, table: str = "upserted") -> list[tuple]:
    """The rows, sorted."""
    with sqlite3.connect(path) as connection:
        return sorted(connection.execute(f"select * from {table}"))
