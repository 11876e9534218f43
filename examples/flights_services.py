"""Flights of a year from a real Kafka into a real PostgreSQL and back into Kafka, exactly once, through kill -9.

``python examples/flights_services.py`` starts both servers on loopback, sends 336,776 flights to a topic and runs one
job beside that, while SIGKILL ends job, broker and database at random moments. It then reads table and topic with the
vendors' own clients, checks that a polars ``group_by`` over the same file gives the same numbers, each of them once,
and exits with 1 if anything is false.

``python examples/flights_services.py job STATE BROKER DSN follow`` is one life of the job.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from flights import FLIGHTS, INTERVAL_S, Screen, Story, expected, live_once, tell_recoveries, verdict
from nycflights import flights_csv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from services.kafka import KafkaBroker
from services.postgres import PostgresServer

import onceflow as of
from onceflow import Dataflow
from onceflow.connectors.kafka import KafkaSink, KafkaSource
from onceflow.connectors.postgres import PostgresSink
from onceflow.windows import Tumbling

PARTITIONS = 4
#: Flights a second.
RATE = 12_000
#: What is killed, in a random order; twice each.
VICTIMS = ("the job", "the broker", "the database") * 2
TABLE = """
    CREATE TABLE delays (
        carrier text, window_start timestamptz, window_end timestamptz, flights bigint NOT NULL,
        mean_delay double precision, worst_delay bigint, PRIMARY KEY (carrier, window_start)
    )
"""


def build(broker: str, dsn: str, until: str) -> Dataflow:
    """Windows per carrier and day: rows of a table, and records of another topic."""
    flow = Dataflow("flights-services")
    source = KafkaSource(broker, "flights", decode="json", event_time="timestamp", stop_at_end=until == "end")
    windows = (
        flow.source("flights", source)
        .filter(lambda flight: flight["dep_delay"] is not None)
        .key_by("carrier")
        .window("daily", Tumbling(days=1))
        .aggregate(flights=of.count(), mean_delay=of.mean("dep_delay"), worst_delay=of.max("dep_delay"))
    )
    windows.sink("table", PostgresSink(dsn, "delays", mode="upsert", key=("carrier", "window_start")))
    windows.sink("topic", KafkaSink(broker, "delays", key="carrier", partitions=PARTITIONS))
    return flow


class Feed(threading.Thread):
    """Sends the flights to a topic while the job runs: a carrier in one partition, in the order of time.

    An idempotent producer: what it repeats after the broker was killed, the broker recognises.
    """

    def __init__(self, broker: str) -> None:
        super().__init__(daemon=True)
        admin = AdminClient({"bootstrap.servers": broker})
        # By their timestamps they would be too old to be kept.
        topic = NewTopic("flights", PARTITIONS, config={"retention.ms": "-1"})
        admin.create_topics([topic])["flights"].result()
        self._producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "log_level": 0})

    def run(self) -> None:
        """Sends them all, about so many a second."""
        flights = pl.read_csv(flights_csv(), null_values=["NA", ""], infer_schema_length=None)
        begin = time.monotonic()
        for number, flight in enumerate(flights.select("carrier", "dep_delay", "time_hour").iter_rows(named=True)):
            departure = datetime.fromisoformat(flight.pop("time_hour"))
            self._send(json.dumps(flight), flight["carrier"], int(departure.timestamp() * 1000))
            if number % 1000 == 0:
                time.sleep(max(begin + number / RATE - time.monotonic(), 0.0))
        self._producer.flush()

    def _send(self, value: str, key: str, timestamp: int) -> None:
        while True:
            try:
                self._producer.produce("flights", value, key=key, timestamp=timestamp)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return


class Rough:
    """The job and its servers, and what happens to them."""

    def __init__(self, screen: Screen, root: Path, broker: KafkaBroker, database: PostgresServer) -> None:
        self.story = Story()
        self._screen = screen
        self._state = root / "state"
        self._broker = broker
        self._database = database
        self._moments = sorted(random.sample(range(10_000, FLIGHTS - 20_000), len(VICTIMS)))
        self._victims = random.sample(VICTIMS, len(VICTIMS))

    def run(self) -> None:
        """As many lives as it takes; then one more to the end of the topic, which closes the last windows."""
        while self.story.records < FLIGHTS:
            self._live("follow")
        self._screen.begin("all flights are in; the last windows close")
        self._live("end")

    def _live(self, until: str) -> None:
        """Up to a SIGKILL of the job, or until it has taken all."""
        servers = [self._broker.bootstrap, self._database.dsn]
        command = [sys.executable, "-W", "ignore", __file__, "job", str(self._state), *servers, until]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            killed = stopped = False
            for text in process.stdout:
                self.story.hear(json.loads(text))
                self._screen.at(self.story.records)
                if self._moments and self.story.records >= self._moments[0]:
                    killed = self._kill(process)
                elif until == "follow" and self.story.records == FLIGHTS and not stopped:
                    process.send_signal(signal.SIGINT)
                    stopped = True
                if killed:
                    break
            process.stdout.close()
            code = process.wait()
        if code != 0 and not killed:
            raise SystemExit(f"the job failed with exit code {code}")

    def _kill(self, process: subprocess.Popen[str]) -> bool:
        """The next victim; true if it was the job."""
        victim = self._victims.pop()
        self._screen.begin(f"{victim} is killed after {self._moments.pop(0):,} flights")
        # Anywhere between two checkpoints, and within one.
        time.sleep(random.random() * INTERVAL_S)
        if victim == "the job":
            process.kill()
            return True
        server = self._broker if victim == "the broker" else self._database
        server.kill()
        server.start()
        return False


def in_table(dsn: str) -> list[tuple[Any, ...]]:
    """What the database has, by its own client."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT window_start, carrier, flights, mean_delay, worst_delay FROM delays"
        ).fetchall()
    return sorted((start.astimezone(UTC).date().isoformat(), *rest) for start, *rest in rows)


def in_topic(broker: str) -> list[tuple[Any, ...]]:
    """What a consumer of committed records reads, in no order across partitions."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "check",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe(["delays"])
    records, ended = [], set()
    while len(ended) < PARTITIONS:
        for message in consumer.consume(1000, timeout=1.0):
            if message.error() is not None:
                ended.add(message.partition())
                continue
            found = json.loads(message.value())
            day = found["window_start"][:10]
            records.append((day, found["carrier"], found["flights"], found["mean_delay"], found["worst_delay"]))
    consumer.close()
    return sorted(records)


def main() -> int:
    """Starts the servers, runs the job, kills, compares, reports; 0 if all is true."""
    screen = Screen()
    wanted, _ = expected(flights_csv())
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with KafkaBroker(root / "kafka") as broker, PostgresServer() as database:
            Feed(broker.bootstrap).start()
            with psycopg.connect(database.address) as connection:
                connection.execute(TABLE)
            screen.begin("from Kafka into PostgreSQL and Kafka")
            rough = Rough(screen, root, broker, database)
            rough.run()
            screen.end()
            rows, records = in_table(database.address), in_topic(broker.bootstrap)
    times = Counter(record[:2] for record in records)
    checks = {
        "windows in the table equal polars' group_by": rows == wanted,
        "windows in the topic equal polars' group_by": records == wanted,
        "nothing lost": times.keys() >= {row[:2] for row in wanted},
        "nothing twice": max(times.values()) == 1,
    }
    verdict(screen.console, checks)
    print(f"{len(rough.story.checkpoints)} checkpoints; {FLIGHTS:,} flights, {len(records):,} windows")
    tell_recoveries(screen.console, rough.story)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        live_once(build(*sys.argv[3:6]), sys.argv[2])
    else:
        sys.exit(main())
