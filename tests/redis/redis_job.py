"""A job that counts rows by user and writes to Redis; a record has a number that differs each time it is computed."""

from __future__ import annotations

import json
import random
import time
import warnings
from pathlib import Path
from typing import Any

import redis

import onceflow as of
from onceflow.connectors.files import CsvSource
from onceflow.connectors.redis import RedisSink, RedisStreamSink, RedisUpsertSink
from onceflow.exceptions import FinishedJobWarning
from onceflow.runtime.run import run as run_flow

__all__ = ["ROWS", "connected", "is_exact", "run", "shown", "write_input"]

ROWS = 160
BATCH = 20
USERS = 7


def write_input(top: Path) -> None:
    """Rows of some users."""
    (top / "in.csv").write_text("id,user\n" + "".join(f"{n},u{n * 7919 % USERS}\n" for n in range(ROWS)))


def run(
    top: Path,
    url: str,
    kind: str,
    *,
    take_over: bool = False,
    resume_from: int | str = "newest",
    pace_s: float = 0.002,
    state: str = "state",
    guarantee: str = "exactly_once",
    **settings: Any,
) -> of.JobResult:
    """One life of the job, in this process."""

    def slowly(batch):
        time.sleep(pace_s)
        return batch

    sinks = {
        "set": lambda: RedisSink(url, key="user", **settings),
        "hash": lambda: RedisSink(url, key="user", mode="hash", prefix="of:", **settings),
        "at once": lambda: RedisUpsertSink(url, key="user", **settings),
        "stream": lambda: RedisStreamSink(url, "counts", **settings),
    }
    flow = of.Dataflow("counting")
    rows = flow.source("rows", CsvSource(top / "in.csv")).map_batch(slowly)
    rows.key_by("user").stateful_map(
        "counts",
        lambda nth, row: (
            (nth or 0) + 1,
            {"user": row["user"], "id": row["id"], "nth": (nth or 0) + 1, "random": random.random()},
        ),
    ).sink("out", sinks[kind]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FinishedJobWarning)
        return run_flow(
            flow,
            top / state,
            guarantee=guarantee,
            checkpoint_interval_s=1e-6,
            batch_size=BATCH,
            take_over=take_over,
            resume_from=resume_from,
        )


def connected(url: str) -> Any:
    """The vendor's own client."""
    return redis.Redis.from_url(url)


def shown(url: str, kind: str) -> list[dict[str, Any]]:
    """What a reader finds: the entries of the stream in order, or the values by user."""
    with connected(url) as client:
        if kind == "stream":
            return [json.loads(fields[b"value"]) for _, fields in client.xrange("counts")]
        keys = [key for key in client.scan_iter() if not key.startswith(b"onceflow:")]
        if kind in ("set", "at once"):
            return sorted((json.loads(client.get(key)) for key in keys), key=lambda one: one["user"])
        hashes = [{name.decode(): value.decode() for name, value in client.hgetall(key).items()} for key in keys]
        records = [one | {"id": int(one["id"]), "nth": int(one["nth"])} for one in hashes]
        return sorted(records, key=lambda one: one["user"])


def is_exact(url: str, kind: str) -> bool:
    """Whether it is what an undisturbed job shows."""
    found = [(one["id"], one["user"], one["nth"]) for one in shown(url, kind)]
    nth: dict[str, int] = {}
    expected = []
    for number in range(ROWS):
        user = f"u{number * 7919 % USERS}"
        nth[user] = nth.get(user, 0) + 1
        expected.append((number, user, nth[user]))
    if kind != "stream":
        expected = sorted({user: one for one in expected for user in [one[1]]}.values(), key=lambda one: one[1])
    return found == expected
