"""What does exactly once cost on a real PostgreSQL?

Rows of four columns from memory into a table, on one server on this machine with its usual settings: by a job exactly
once, and by the bare client, which copies the same rows by COPY and commits as often, with nothing to say afterwards
which of them are there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from harness.figures import Goal, Table
from harness.jobs import rate_of
from harness.rounds import interleave, median
from harness.scale import Scale

INTERVALS = {"100 ms": 0.1, "1 s": 1.0}
MODES = ("append", "upsert")
BATCH = 1_000
#: So many that hardly any row comes twice within a second.
ROWS = 200_000

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
    "Medians of rounds that take turns; the share is that of each round. A thousand rows a batch; all until the last "
    "one is committed. An upsert is COPY into a temporary table and a merge by the primary key. Exactly once writes "
    "every row a second time, into the checkpoint's decision record, which is synced to the disk.",
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


def _make(dsn: str, mode: str) -> None:
    key = "primary key" if mode == "upsert" else ""
    with psycopg.connect(dsn) as session:
        session.execute("drop table if exists rows, onceflow_markers")
        session.execute(f"create table rows (id int {key}, name text, amount double precision, seen int)")


def client_rate(dsn: str, mode: str, records: list[dict[str, Any]], seconds: float, interval_s: float) -> float:
    """Rows a second of the bare client."""
    _make(dsn, mode)
    count, first, start = 0, 0, time.perf_counter()
    with psycopg.connect(dsn) as session, session.cursor() as cursor:
        while (begun := time.perf_counter()) < start + seconds:
            table = "rows"
            if mode == "upsert":
                table = "incoming"
                cursor.execute("create temporary table incoming on commit drop as select * from rows with no data")
            with cursor.copy(f"copy {table} (id, name, amount, seen) from stdin") as copy:
                while time.perf_counter() < begun + interval_s:
                    for record in records[first : first + BATCH]:
                        copy.write_row((record["id"], record["name"], record["amount"], record["seen"]))
                    first = (first + BATCH) % len(records)
                    count += BATCH
            if mode == "upsert":
                cursor.execute(
                    "insert into rows select distinct on (id) * from incoming on conflict (id) do update "
                    "set name = excluded.name, amount = excluded.amount, seen = excluded.seen"
                )
            session.commit()
        return count / (time.perf_counter() - start)


def job_rate(
    dsn: str, mode: str, records: list[dict[str, Any]], directory: Any, seconds: float, interval_s: float
) -> float:
    """The same of a job."""
    from onceflow.connectors.postgres import PostgresSink  # noqa: PLC0415 - of the services' benchmarks alone

    _make(dsn, mode)
    sink = PostgresSink(dsn, "rows", mode=mode, key="id" if mode == "upsert" else None)
    return rate_of(
        lambda stream: stream.sink("out", sink),
        records,
        directory / "job",
        seconds,
        interval_s=interval_s,
        guarantee="exactly_once",
        batch_size=BATCH,
    ).rate


def intervals(scale: Scale) -> dict[str, float]:
    """Between commits."""
    return INTERVALS if scale.name == "full" else {"100 ms": 0.1}


def test_cost_of_exactly_once(benchmark, record, scale, directory, dsn):
    records = rows(ROWS if scale.name == "full" else 10_000)
    cases = {}
    for mode, (interval, interval_s) in itertools.product(MODES, intervals(scale).items()):
        seconds = max(scale.seconds(4.0, least=0.5), 3 * interval_s)
        arguments = (mode, records)
        cases[mode, interval, "client, COPY"] = lambda a=arguments, s=seconds, i=interval_s: client_rate(dsn, *a, s, i)
        cases[mode, interval, "job, exactly_once"] = lambda a=arguments, s=seconds, i=interval_s: job_rate(
            dsn, *a, directory, s, i
        )
    found = interleave(benchmark, cases, scale.rounds)
    for (mode, interval, what), rates in found.items():
        shares = [one / other for one, other in zip(rates, found[mode, interval, "client, COPY"], strict=True)]
        values = {"mode": mode, "commit every": interval, "what": what, "rate": median(rates)}
        values |= {"of COPY": median(shares), "lowest": min(shares), "highest": max(shares)}
        goals = [Goal("of COPY", 0.9)] if (mode, what) == ("upsert", "job, exactly_once") else []
        record(TABLE, values, *goals)
