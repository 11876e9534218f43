"""A small job for lives that are killed and stopped: counts by user into two tables of PostgreSQL at once."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import psycopg

import onceflow as of
from onceflow.connectors.files import CsvSource
from onceflow.connectors.postgres import PostgresSink
from onceflow.exceptions import FinishedJobWarning

__all__ = ["expected", "make_tables", "run", "shown"]

ROWS = 160
BATCH = 20
USERS = 7


def make_tables(dsn: str) -> None:
    """Without any key of ``counted``, which would hide a row that is written twice."""
    with psycopg.connect(dsn) as session:
        session.execute("create table counted (id int not null, name text not null, nth int not null)")
        session.execute("create table newest (name text primary key, nth int not null, id int not null)")


def run(root: Path, dsn: str, *, take_over: bool = False, pace_s: float = 0.01, retry_for_s: float = 60.0) -> None:
    """One life of the job, in this process; its state and input lie in ``root``."""
    path = root / "in.csv"
    if not path.exists():
        path.write_text("id,name\n" + "".join(f"{number},u{number * 7919 % USERS}\n" for number in range(ROWS)))

    def slowly(batch):
        time.sleep(pace_s)
        return batch

    flow = of.Dataflow("counts")
    counts = (
        flow.source("rows", CsvSource(path))
        .map_batch(slowly)
        .key_by("name")
        .stateful_map("nth", lambda nth, row: ((nth or 0) + 1, {**row, "nth": (nth or 0) + 1}))
    )
    counts.sink("counted", PostgresSink(dsn, "counted", retry_for_s=retry_for_s))
    counts.sink("newest", PostgresSink(dsn, "newest", mode="upsert", key="name", retry_for_s=retry_for_s))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FinishedJobWarning)
        of.run(flow, root / "state", checkpoint_interval_s=1e-6, batch_size=BATCH, take_over=take_over)


def expected() -> dict[str, list[tuple]]:
    """What the tables have when each input was counted once."""
    counted, newest = [], {}
    nths: dict[str, int] = {}
    for number in range(ROWS):
        name = f"u{number * 7919 % USERS}"
        nths[name] = nths.get(name, 0) + 1
        counted.append((number, name, nths[name]))
        newest[name] = (name, nths[name], number)
    return {"counted": counted, "newest": sorted(newest.values())}


def shown(dsn: str) -> dict[str, list[tuple]]:
    """What the tables have."""
    with psycopg.connect(dsn) as session:
        return {
            "counted": session.execute("select id, name, nth from counted order by id, nth").fetchall(),
            "newest": session.execute("select name, nth, id from newest order by name").fetchall(),
        }
