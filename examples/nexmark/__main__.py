"""Runs queries of Nexmark, kills them, and compares their answers with DuckDB's over the same bids.

python examples/nexmark                             # all queries
python examples/nexmark q7 q18 --bids 200000 --kills 3
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from events import bids
from queries import QUERIES

from onceflow import Dataflow, run
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.iterable import IterableSource

SEED = 42


def answer(name: str, directory: Path, count: int) -> None:
    """Runs a query from where it stands."""
    source = IterableSource(
        functools.partial(bids, count=count, seed=SEED),
        event_time=lambda bid: bid["date_time"] / 1_000_000,
        deterministic=True,
    )
    flow = Dataflow(name)
    QUERIES[name].flow(flow.source("bids", source)).sink("out", JsonLinesSink(directory / "out"))
    run(flow, directory / "state", checkpoint_interval_s=0.05)


def answered(name: str, directory: Path) -> list[dict[str, Any]]:
    """What the query has written: of records with a key the last one of each."""
    lines = read_parts(directory / "out").decode().splitlines()
    key = QUERIES[name].key
    rows = [json.loads(line) for line in lines]
    return list({tuple(row[field] for field in key): row for row in rows}.values()) if key else rows


def expected(name: str, count: int) -> list[dict[str, Any]]:
    """DuckDB's answer."""
    bid = pa.Table.from_pylist(list(bids(0, count=count, seed=SEED)))
    with duckdb.connect() as database:
        database.register("bid", bid)
        return list(database.sql(QUERIES[name].sql).to_arrow_table().to_pylist())


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    """Rows that can be compared, whatever the order of rows and fields."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def compare(name: str, count: int, kills: int, chance: random.Random) -> int:
    """Runs a query to its end through kills; returns how many of them there were."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(Path(__file__).parent), name, "--bids", str(count), "--directory", scratch]
        started_s, done = time.monotonic(), 0
        while True:
            with subprocess.Popen(command) as life:
                try:
                    life.wait(chance.uniform(0.3, 1.2) if done < kills else None)
                except subprocess.TimeoutExpired:
                    life.kill()
                    done += 1
                    continue
            break
        assert life.returncode == 0, f"{name} ended with {life.returncode}"
        rows = answered(name, Path(scratch))
    assert in_order(rows) == in_order(expected(name, count)), f"{name} differs from DuckDB"
    print(f"{name}: {len(rows)} rows as DuckDB's, {done} kills, {time.monotonic() - started_s:.1f} s", flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", nargs="*", default=list(QUERIES), metavar="query", help=", ".join(QUERIES))
    parser.add_argument("--bids", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.queries) - QUERIES.keys():
        parser.error(f"no queries {', '.join(sorted(unknown))}: choose from {', '.join(QUERIES)}")
    if given.directory is not None:
        answer(given.queries[0], given.directory, given.bids)
        return
    chance = random.Random(SEED)
    kills = sum(compare(name, given.bids, given.kills, chance) for name in given.queries)
    print(f"{len(given.queries)} queries over {given.bids} bids, {kills} kills: all as DuckDB's")


if __name__ == "__main__":
    main()
