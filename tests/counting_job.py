"""A small job for lives that are stopped, forked, put back: reads CSV, counts by user, writes to one kind of sink."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import onceflow as of
from onceflow._native import Log
from onceflow.connectors.files import CsvSink, CsvSource, JsonLinesSink, ParquetSink, read_parts
from onceflow.connectors.log import LogSink
from onceflow.exceptions import FencedError
from onceflow.sinks import IdempotentSink, Sink, SinkContext, SinkWriter

__all__ = ["KINDS", "ROWS", "run", "shown", "write_input"]

ROWS = 160
BATCH = 20
USERS = 7


class UpsertSink(IdempotentSink):
    """A row for each user in SQLite, replaced by the next one. Older epochs are refused in the same transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, context: SinkContext) -> SinkWriter:
        return _Upserts(self._path, context.job_epoch)


class _Upserts(SinkWriter):
    def __init__(self, path: Path, epoch: int) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._epoch = epoch
        self._rows: list[dict] = []
        self._connection.execute("create table if not exists fence (epoch integer)")
        self._connection.execute("create table if not exists counts (user text primary key, id integer, nth integer)")

    def write(self, records):
        self._rows += records.to_rows() if isinstance(records, of.Columns) else records

    def flush(self):
        rows, self._rows = self._rows, []
        self._connection.execute("begin immediate")
        (newest,) = self._connection.execute("select coalesce(max(epoch), 0) from fence").fetchone()
        if newest > self._epoch:
            self._connection.execute("rollback")
            raise FencedError(f"epoch {newest} writes here, this is {self._epoch}")
        self._connection.execute("insert into fence values (?)", (self._epoch,))
        self._connection.executemany("insert or replace into counts values (:user, :id, :nth)", rows)
        self._connection.execute("commit")

    def close(self):
        self._connection.close()


def _shown_in_log(root: Path) -> object:
    with Log.open(root / "out", create=False) as log:
        assert [producer.staged_bytes for producer in log.producers()] == [0]
        fetched = [log.fetch("out", partition, 0) for partition in range(log.topic("out").partitions)]
        return [(records.keys, records.values) for records in fetched]


def _shown_in_sqlite(root: Path) -> object:
    with sqlite3.connect(root / "out") as connection:
        return connection.execute("select user, id, nth from counts order by user").fetchall()


def _shown_in_parquet(root: Path) -> object:
    import pyarrow.parquet as pq  # noqa: PLC0415 - not before a fork

    return [row for path in sorted((root / "out").glob("part-*")) for row in pq.read_table(path).to_pylist()]


#: Kind of sink → how it is made, and what it shows.
KINDS: dict[str, tuple[Callable[[Path], Sink], Callable[[Path], object]]] = {
    "csv": (lambda root: CsvSink(root / "out"), lambda root: read_parts(root / "out")),
    "jsonl": (lambda root: JsonLinesSink(root / "out"), lambda root: read_parts(root / "out")),
    "parquet": (lambda root: ParquetSink(root / "out"), _shown_in_parquet),
    "log": (lambda root: LogSink(root / "out", "out", key="user", partitions=2), _shown_in_log),
    "sqlite": (lambda root: UpsertSink(root / "out"), _shown_in_sqlite),
}


def write_input(top: Path) -> None:
    """Rows of some users, for all jobs whose directories lie under ``top``."""
    lines = "".join(f"{number},u{number * 7919 % USERS}\n" for number in range(ROWS))
    (top / "in.csv").write_text(f"id,user\n{lines}")


def run(
    root: Path,
    kind: str,
    *,
    take_over: bool = False,
    fresh: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> of.JobResult:
    """One life of the job, in this process.

    Args:
        root: Where state and output lie; the input lies beside it.
        kind: Of sink.
        take_over: See ``run``.
        fresh: See ``run``.
        on_batch: Called with the number of each batch of this life, from 1 on, where users' functions are called.
    """
    numbers = itertools.count(1)

    def slowly(batch):
        # So that a few checkpoints fall within a run.
        time.sleep(0.002)
        if on_batch is not None and len(batch):
            on_batch(next(numbers))
        return batch

    flow = of.Dataflow("counting")
    rows = flow.source("rows", CsvSource(root.parent / "in.csv")).map_batch(slowly)
    rows.key_by("user").stateful_map(
        "counts", lambda nth, row: ((nth or 0) + 1, {"user": row["user"], "id": row["id"], "nth": (nth or 0) + 1})
    ).sink("out", KINDS[kind][0](root))
    return of.run(flow, root / "state", checkpoint_interval_s=1e-6, batch_size=BATCH, take_over=take_over, fresh=fresh)


def shown(root: Path, kind: str) -> object:
    """What the sink shows."""
    return KINDS[kind][1](root)
