"""Views of pages, counted by minute into a table of PostgreSQL, each of them once, although the job is killed.

The views lie in a topic of the embedded log. ``python examples/log_to_postgres.py`` starts a PostgreSQL server of its
own (see ``services/postgres``); ``python examples/log_to_postgres.py DSN`` takes yours, and a schema ``views`` there.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from onceflow import Dataflow, Log, Producer, count, run
from onceflow.connectors.log import LogSource
from onceflow.connectors.postgres import PostgresSink
from onceflow.exceptions import FinishedJobWarning
from onceflow.windows import Tumbling

VIEWS, PAGES, KILLS = 3_000, 8, 3
BEGIN = datetime(2024, 5, 6, tzinfo=UTC)
TABLE = """
create table views.by_minute (
    page text, minute timestamptz, views bigint not null, primary key (page, minute)
)
"""


def write_views(path: Path) -> Counter[tuple[str, datetime]]:
    """Writes the topic, a view a second; returns what is to come out."""
    chance, expected = random.Random(1), Counter[tuple[str, datetime]]()
    with Log.open(path) as log, Producer(log) as producer:
        log.create_topic("views", exist_ok=True)
        for number in range(VIEWS):
            page, at = f"/page/{chance.randrange(PAGES)}", BEGIN + timedelta(seconds=number)
            expected[page, at.replace(second=0)] += 1
            producer.produce("views", key=page, value=json.dumps({"page": page, "at": at.isoformat()}))
    return expected


def slowly(views: list[Any]) -> list[Any]:
    """As slowly as views come while a job runs."""
    time.sleep(0.02)
    return views


def work(top: Path, dsn: str) -> None:
    """The job."""
    flow = Dataflow("views")
    (
        flow.source("views", LogSource(top / "log", "views", decode="json", event_time=lambda view: view["at"]))
        .map_batch(slowly)
        .key_by("page")
        .window("minutes", Tumbling(minutes=1))
        .aggregate(views=count())
        .map(lambda row: {"page": row["page"], "minute": row["window_start"], "views": row["views"]})
        .sink("table", PostgresSink(dsn, "views.by_minute", mode="upsert", key=("page", "minute")))
    )
    # The last life may find that nothing was left but to write again.
    warnings.simplefilter("ignore", FinishedJobWarning)
    run(flow, top / "state", checkpoint_interval_s=0.05, batch_size=50)


def server(resources: contextlib.ExitStack) -> str:
    """DSN of a server that ends with this program."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from services.postgres import PostgresServer  # noqa: PLC0415 - not where a server is given

    return resources.enter_context(PostgresServer()).dsn


def main(dsn: str | None) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as resources:
        top, dsn = Path(name), dsn or server(resources)
        expected = write_views(top / "log")
        table = resources.enter_context(psycopg.connect(dsn, autocommit=True))
        table.execute("drop schema if exists views cascade")
        table.execute("create schema views")
        table.execute(TABLE)
        command = [sys.executable, __file__, "job", name]
        # A DSN may hold a password, and everybody sees the arguments of a process.
        environment = {**os.environ, "DSN": dsn}
        for life in range(KILLS):
            job = subprocess.Popen(command, env=environment)
            until = (life + 1) * len(expected) // (KILLS + 2)
            while (rows := table.execute("select count(*) from views.by_minute").fetchone()) and rows[0] < until:
                time.sleep(0.01)
            job.kill()
            job.wait()
            print(f"killed with {rows[0] if rows else 0} rows in the table")
        subprocess.run(command, check=True, env=environment)
        found = {(page, minute): views for page, minute, views in table.execute("select * from views.by_minute")}
        assert found == expected
        print(f"{VIEWS} views in {len(found)} rows, each counted once")


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        work(Path(sys.argv[2]), os.environ["DSN"])
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
