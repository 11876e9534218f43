"""What does exactly once cost on a real PostgreSQL?

Rows of four columns from memory into a table, on one server on this machine with its usual settings: by a job exactly
once, through ``PostgresSink`` and through ``SqlSink``, which knows any database; and by the bare client, which writes
the batches of the first by COPY and a merge one after the other, as fast as it can, and with nothing to say after which
of them are there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.figures import Goal, Table
from harness.jobs import rate_of
from harness.rounds import interleave, median
from harness.scale import Scale
from onceflow.connectors.postgres import PostgresSink
from onceflow.connectors.sql import SqlSink
from onceflow.sinks import Sink, SinkContext

INTERVALS = {"100 ms": 0.1, "1 s": 1.0}
MODES = ("append", "upsert")
BATCH = 1_000
#: So many that hardly any row comes twice in a transaction.
ROWS = 400_000
#: While the first checkpoint is gathered, the server has nothing to do: a small part of the time.
CHECKPOINTS = 12
#: A job reads far more in a time than SQLAlchemy writes in it, so it reads for a shorter one.
SLOWER = 20

TABLE = Table(
    "postgres_guarantee",
    "Into a table of PostgreSQL",
    {
        "mode": "text",
        "commit every": "text",
        "what": "text",
        "rate": "rate",
        "of COPY": "share",
        "lowest": "share",
        "highest": "share",
    },
    "Medians of rounds; the share is that of each round. The bare client has the job's own batches, and does nothing "
    "but write them: for an upsert, COPY into a temporary table and a merge by the primary key. The job reads "
    "meanwhile, and writes every row a second time, into the checkpoint's decision record, which is synced to the "
    "disk. All until the last row is committed.",
)


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """A server that syncs its log, as users have it."""
    from services.postgres import PostgresServer  # noqa: PLC0415 - of the services' benchmarks alone

    with PostgresServer() as server:
        yield server.dsn


def rows(number: int) -> list[dict[str, Any]]:
    """Records, in no order of their keys."""
    return [{"id": n * 7919 % number, "name": f"name {n}", "amount": n * 0.5, "seen": n} for n in range(number)]


def make_table(dsn: str, mode: str) -> None:
    """An empty table."""
    key = "primary key" if mode == "upsert" else ""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("drop table if exists rows, onceflow_markers, onceflow_sql_markers")
        session.execute(f"create table rows (id int {key}, name text, amount double precision, seen int)")
        # What the contender before has left to be written is not this one's.
        session.execute("checkpoint")


#: What the server has, and SQLAlchemy is to find.
_DRIVER = "postgresql+psycopg"


class _NotingSink(PostgresSink):
    """Writes down how many rows each checkpoint has."""

    def __init__(self, dsn: str, mode: Any) -> None:
        super().__init__(dsn, "rows", mode=mode, key="id" if mode == "upsert" else None)
        self.batches: list[int] = []

    def open(self, context: SinkContext) -> Any:
        writer = super().open(context)
        seal = writer.seal

        def noting(checkpoint_id: int) -> Any:
            self.batches.append(writer.held or 0)
            return seal(checkpoint_id)

        writer.seal = noting  # type: ignore[method-assign] - of this one alone
        return writer


def job_rate(
    dsn: str, mode: str, records: list[dict[str, Any]], directory: Path, seconds: float, interval_s: float
) -> tuple[float, list[int]]:
    """Rows a second of a job, and how many it has written in each transaction."""
    make_table(dsn, mode)
    sink = _NotingSink(dsn, mode)
    found = _rate(sink, records, directory / "job", seconds, interval_s)
    return found, [count for count in sink.batches if count]


def sql_rate(
    dsn: str, mode: Any, records: list[dict[str, Any]], directory: Path, seconds: float, interval_s: float
) -> float:
    """The same of a job that writes through SQLAlchemy."""
    make_table(dsn, mode)
    sink = SqlSink(dsn.replace("postgresql", _DRIVER, 1), "rows", mode=mode, key="id" if mode == "upsert" else None)
    return _rate(sink, records, directory / "sql", seconds, interval_s)


def _rate(sink: Sink, records: list[dict[str, Any]], directory: Path, seconds: float, interval_s: float) -> float:
    found = rate_of(
        lambda stream: stream.sink("out", sink),
        records,
        directory,
        seconds,
        interval_s=interval_s,
        guarantee="exactly_once",
        batch_size=BATCH,
    )
    return found.rate


def client_rate(dsn: str, mode: str, records: list[dict[str, Any]], batches: list[int]) -> float:
    """The same of the bare client, which writes these batches."""
    make_table(dsn, mode)
    values = itertools.cycle(records)
    start = time.perf_counter()
    with psycopg.connect(dsn) as session, session.cursor() as cursor:
        for batch in batches:
            table = "rows"
            if mode == "upsert":
                table = "incoming"
                cursor.execute("create temporary table incoming on commit drop as select * from rows with no data")
            with cursor.copy(f"copy {table} (id, name, amount, seen) from stdin") as copy:
                for record in itertools.islice(values, batch):
                    copy.write_row((record["id"], record["name"], record["amount"], record["seen"]))
            if mode == "upsert":
                cursor.execute(
                    "insert into rows select distinct on (id) * from incoming on conflict (id) do update "
                    "set name = excluded.name, amount = excluded.amount, seen = excluded.seen"
                )
            session.commit()
        return sum(batches) / (time.perf_counter() - start)


def intervals(scale: Scale) -> dict[str, float]:
    """Between commits."""
    return INTERVALS if scale.name == "full" else {"100 ms": 0.1}


def test_cost_of_exactly_once(benchmark, record, scale, directory, dsn):
    records = rows(ROWS if scale.name == "full" else 10_000)

    def all_three(mode: str, interval_s: float) -> tuple[float, float, float]:
        seconds = max(scale.seconds(4.0, least=0.5), CHECKPOINTS * interval_s)
        job, batches = job_rate(dsn, mode, records, directory, seconds, interval_s)
        client = client_rate(dsn, mode, records, batches)
        return job, client, sql_rate(dsn, mode, records, directory, seconds / SLOWER, interval_s)

    cases = {
        (mode, interval): lambda case=(mode, interval_s): all_three(*case)
        for mode, (interval, interval_s) in itertools.product(MODES, intervals(scale).items())
    }
    found = interleave(benchmark, cases, scale.rounds)
    for (mode, interval), rounds in found.items():
        jobs, clients, through_sql = zip(*rounds, strict=True)
        values = {"mode": mode, "commit every": interval}
        record(TABLE, {**values, "what": "client, COPY", "rate": median(clients)})
        goals = [Goal("of COPY", 0.9)] if mode == "upsert" else []
        record(TABLE, {**values, "what": "job, exactly_once", **of_copy(jobs, clients)}, *goals)
        record(TABLE, {**values, "what": "job, exactly_once, SqlSink", **of_copy(through_sql, clients)})


def of_copy(rates: Sequence[float], clients: Sequence[float]) -> dict[str, float]:
    """Of the same rounds."""
    shares = [rate / client for rate, client in zip(rates, clients, strict=True)]
    return {"rate": median(rates), "of COPY": median(shares), "lowest": min(shares), "highest": max(shares)}
