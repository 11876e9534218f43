"""A job from a topic of Kafka into Kafka, PostgreSQL, SQLite, Redis and HTTP at once, and the clients beside it.

It draws a random value for each record, so that what comes out twice or is computed anew shows: each input must be in
each target once, and with the same value in all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis
import topics
from recording import Promises, RecordingConsumer, RecordingProducer, create_topics
from serving import effects_in

import onceflow as of
from onceflow import exceptions
from onceflow.connectors.http import HttpSink
from onceflow.connectors.kafka import KafkaSink, KafkaSource
from onceflow.connectors.postgres import PostgresSink
from onceflow.connectors.redis import RedisStreamSink
from onceflow.connectors.sql import SqlSink
from onceflow.runtime.run import run as run_flow
from onceflow.testing.histories import Anomaly, AnomalyKind, History, Recorder, Report, check

__all__ = [
    "TRANSACTION_S",
    "Addresses",
    "Input",
    "Wrong",
    "create",
    "feed",
    "follow",
    "judge",
    "report",
    "run",
    "run_calm",
]

PARTITIONS = 4
#: Each user lies in one partition, of the input and of the output.
_USERS = 12
COLUMNS = ("id", "user", "value", "nth")
_TABLE = 'create table {} (id bigint not null, "user" text not null, value bigint not null, nth bigint not null)'
#: A request for each record would be all that the machine does.
_SENT = 10
#: The broker ends what nobody has ended for so long; it looks every second.
TRANSACTION_S = 3.0


@dataclass(frozen=True)
class Addresses:
    """Where the servers are; ``sqlite`` is a file."""

    kafka: str
    postgres: str
    redis: str
    http: str
    sqlite: Path


@dataclass(frozen=True)
class Wrong:
    """What a target shows that it must not.

    Attributes:
        lost: Inputs that it lacks.
        doubled: That it has more than once.
        contradicting: That have another value there than elsewhere, or another place in the order of their user.
    """

    lost: int = 0
    doubled: int = 0
    contradicting: int = 0

    def __add__(self, other: Wrong) -> Wrong:
        return Wrong(self.lost + other.lost, self.doubled + other.doubled, self.contradicting + other.contradicting)


def create(at: Addresses) -> None:
    """Topics and tables, without keys that would hide what is written twice."""
    create_topics(at.kafka, **{"in": PARTITIONS, "out": PARTITIONS, "calm": PARTITIONS})
    with psycopg.connect(at.postgres) as session:
        session.execute(_TABLE.format("counted"))
        session.execute(_TABLE.format("newest").replace('"user" text not null', '"user" text primary key'))
        session.execute(_TABLE.format("calm").replace('"user" text not null', '"user" text primary key'))
    with contextlib.closing(sqlite3.connect(at.sqlite)) as database:
        database.execute(_TABLE.format("counted"))


def _expected(number: int) -> tuple[str, int]:
    """User and partition."""
    return f"u{number % _USERS}", number % PARTITIONS


def _partition(record: dict[str, Any]) -> int:
    return _expected(record["id"])[1]


# -- clients beside the job --------------------------------------------------------------------------


def feed(root: Path, at: Addresses, rate: float) -> None:
    """Writes so many numbers a second until there is a file ``stop``, and leaves their count in ``fed``."""
    promises = Promises(root / "history", "out", PARTITIONS)
    producer = RecordingProducer(at.kafka, root / "history", "feed", **{"message.timeout.ms": 0})
    began_s, number = time.monotonic(), 0
    while not (root / "stop").exists():
        while number < (time.monotonic() - began_s) * rate:
            _, partition = _expected(number)
            promises.made(partition, str(number))
            producer.send("in", str(number), partition)
            number += 1
        time.sleep(0.02)
    producer.flush()
    promises.due()
    _say(root / "fed", number)


def follow(root: Path, at: Addresses) -> None:
    """Reads what is committed in the output, all the while, until there is a file ``through`` and all is read."""
    with Recorder(root / "history", "follower") as recorder:
        places = [("out", partition) for partition in range(PARTITIONS)]
        consumer = RecordingConsumer(at.kafka, recorder, places, value_of=lambda value: str(json.loads(value)["id"]))
        consumer.read_to_the_end((root / "through").exists)
        consumer.close()


def _say(path: Path, what: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(str(what))
    new.rename(path)


# -- the jobs ----------------------------------------------------------------------------------------


def run(root: Path, at: Addresses, *, follow: bool) -> None:
    """One life of the job, which takes over from whatever other run there is."""
    chance = random.SystemRandom()

    def count(nth: int | None, number: int) -> tuple[int, dict[str, Any]]:
        nth = (nth or 0) + 1
        return nth, {"id": number, "user": _expected(number)[0], "value": chance.getrandbits(48), "nth": nth}

    flow = of.Dataflow("many-sinks")
    source = KafkaSource(at.kafka, "in", decode="json", stop_at_end=not follow, config=_BACK_SOON)
    counted = flow.source("in", source).key_by(lambda number: _expected(number)[0]).stateful_map("counts", count)
    counted.sink("topic", KafkaSink(at.kafka, "out", partition=_partition, config=_TRANSACTIONS))
    counted.sink("table", PostgresSink(at.postgres, "counted"))
    counted.sink("newest", PostgresSink(at.postgres, "newest", mode="upsert", key="user"))
    counted.sink("sql", SqlSink(f"sqlite:///{at.sqlite}", "counted"))
    counted.sink("stream", RedisStreamSink(at.redis, "counts", timeout_s=10))
    counted.filter(lambda record: record["id"] % _SENT == 0).sink(
        "requests", HttpSink(at.http, timeout_s=10, backoff_s=0.05, max_backoff_s=1)
    )
    _run(flow, root / "state")


def run_calm(root: Path, at: Addresses, *, follow: bool) -> None:
    """One life of a second job, which is never killed: how much memory it has, it leaves in ``memory``."""
    until_s = [0.0]

    def count(nth: int | None, number: int) -> tuple[int, dict[str, Any]]:
        if time.monotonic() > until_s[0]:
            until_s[0] = time.monotonic() + 1
            with (root / "memory").open("a") as memory:
                memory.write(f"{time.monotonic():.0f} {_resident_kib()}\n")
        nth = (nth or 0) + 1
        return nth, {"id": number, "user": _expected(number)[0], "value": 0, "nth": nth}

    flow = of.Dataflow("calm")
    source = KafkaSource(at.kafka, "in", decode="json", stop_at_end=not follow, config=_BACK_SOON)
    counted = flow.source("in", source).key_by(lambda number: _expected(number)[0]).stateful_map("counts", count)
    counted.sink("topic", KafkaSink(at.kafka, "calm", partition=_partition, config=_TRANSACTIONS))
    counted.sink("table", PostgresSink(at.postgres, "calm", mode="upsert", key="user"))
    _run(flow, root / "calm-state")


_BACK_SOON = {"reconnect.backoff.max.ms": 500}
_TRANSACTIONS = {**_BACK_SOON, "transaction.timeout.ms": int(TRANSACTION_S * 1000)}


def _run(flow: of.Dataflow, state: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What a job says of servers that are away, and of a life that was killed at its end.
        for name in dir(exceptions):
            if name.endswith("WaitingWarning") or name == "FinishedJobWarning":
                warnings.simplefilter("ignore", getattr(exceptions, name))
        run_flow(flow, state, checkpoint_interval_s=0.2, batch_size=200, take_over=True)


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


# -- what is there in the end ------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """What jobs have to take: the topic itself, read by its vendor's client.

    Where a partition gets another leader, librdkafka may write a record twice, though it is idempotent; it says so
    itself. The job takes both, so each target has both.

    Attributes:
        rows: Number, user, and how manyth record of the user it is.
        repeated: Numbers that are there more than once.
        missing: Numbers that were acknowledged and are not there.
    """

    rows: list[tuple[int, str, int]]
    repeated: frozenset[int]
    missing: int

    @classmethod
    def read(cls, root: Path, at: Addresses) -> Input:
        numbers = [int(message.value()) for message in topics.read(at.kafka, "in")]
        counts: Counter[str] = Counter()
        rows = []
        for number in numbers:
            user, _ = _expected(number)
            counts[user] += 1
            rows.append((number, user, counts[user]))
        times = Counter(numbers)
        missing = set(range(int((root / "fed").read_text()))) - times.keys()
        return cls(rows, frozenset(number for number, count in times.items() if count > 1), len(missing))


def judge(at: Addresses, given: Input, effects: Path) -> dict[str, Wrong]:
    """What is wrong in each target, read by its vendor's own client, when all jobs are through."""
    with psycopg.connect(at.postgres) as session:
        table = session.execute('select id, "user", value, nth from counted').fetchall()
        newest, calm_newest = (
            session.execute(f'select id, "user", value, nth from {name}').fetchall() for name in ("newest", "calm")
        )
    with contextlib.closing(sqlite3.connect(at.sqlite)) as database:
        sql = database.execute('select id, "user", value, nth from counted').fetchall()
    with redis.Redis.from_url(at.redis) as client:
        stream = [json.loads(fields[b"value"]) for _, fields in client.xrange("counts")]
    topic, calm = ([json.loads(message.value()) for message in topics.read(at.kafka, name)] for name in ("out", "calm"))
    found = {
        "Kafka": _rows(topic),
        "PostgreSQL": table,
        "SQLite": sql,
        "Redis": _rows(stream),
        "HTTP": _rows(effects_in(effects)),
    }
    values = {(row[0], row[3]): row[2] for row in table}
    sent = [row for row in given.rows if row[0] % _SENT == 0]
    said = {name: _compared(rows, sent if name == "HTTP" else given.rows, values) for name, rows in found.items()}
    said["Kafka, job that is not killed"] = _compared(_rows(calm), given.rows, None)
    for name, rows, known in (("upserts", newest, values), ("upserts, job that is not killed", calm_newest, None)):
        said[name] = _compared_newest(rows, given.rows, known)
    said["the input"] = Wrong(lost=given.missing)
    return said


def _rows(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(record[column] for column in COLUMNS) for record in records]


def _compared(
    rows: list[tuple[Any, ...]], wanted: list[tuple[int, str, int]], values: dict[tuple[int, int], int] | None
) -> Wrong:
    due, there, right = Counter(row[0] for row in wanted), Counter(row[0] for row in rows), set(wanted)
    unlike = 0
    for number, user, value, nth in rows:
        unlike += (number, user, nth) not in right or (values is not None and values.get((number, nth)) != value)
    return Wrong((due - there).total(), (there - due).total(), unlike)


def _compared_newest(
    rows: list[tuple[Any, ...]], wanted: list[tuple[int, str, int]], values: dict[tuple[int, int], int] | None
) -> Wrong:
    """Of a table that has the newest record of each user only."""
    newest = {user: (number, user, nth) for number, user, nth in wanted}
    return _compared(rows, list(newest.values()), values)


def report(root: Path, at: Addresses, given: Input) -> tuple[Report, list[Anomaly]]:
    """What the history checker says of the input, of what was promised of the output, and of what a reader saw; and
    which anomalies are not of records that lie in the input twice."""
    with Recorder(root / "history", "last") as recorder:
        consumer = RecordingConsumer(at.kafka, recorder, [("in", partition) for partition in range(PARTITIONS)])
        consumer.read_to_the_end()
        consumer.close()
    said = check(History.load(root / "history"), atomic_commits=False)
    repeats = tuple(f"{str(number)!r} (" for number in given.repeated)
    own = [
        anomaly
        for anomaly in said.anomalies
        if not (anomaly.kind is AnomalyKind.DUPLICATE and anomaly.explanation.startswith(repeats))
    ]
    return said, own
