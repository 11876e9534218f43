"""A job moves from the embedded log to Kafka by two lines, and shows the same."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import topics as real
from topics import Topics

from onceflow import Log, Producer

PROGRAM = """
from onceflow.connectors.log import LogSink as Sink, LogSource as Source
PLACE = "events/"

import onceflow as of
from onceflow.windows import Tumbling

flow = of.Dataflow("moves")
numbers = flow.source("in", Source(PLACE, "IN", decode="json", event_time="timestamp", on_malformed="dead_letter"))
numbers.key_by("key").window("days", Tumbling(days=1)).aggregate(total=of.sum("n"), count=of.count()).sink(
    "out", Sink(PLACE, "OUT", key="key", timestamp="window_start", headers=lambda row: {"by": b"day"}, partitions=2)
)
flow.dead_letters("in").sink("bad", Sink(PLACE, "BAD", partitions=1))
of.run(flow, state="state-of-it")
"""
TWO_LINES = """
from onceflow.connectors.kafka import KafkaSink as Sink, KafkaSource as Source
PLACE = "{}"
"""
DAY_MS = 86_400_000


def played(where, program):
    where.mkdir(exist_ok=True)
    (where / "moves.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "moves.py"], cwd=where, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def of_log(log, topic):
    for partition in range(log.native.topic(topic).partitions):
        found = log.native.fetch(topic, partition, 0, max_records=10_000)
        for row, value in enumerate(found.values):
            headers = [tuple(one) for one in found.headers[row] or ()]
            yield found.keys[row], int(found.timestamps[row]), msgspec.json.decode(value), headers


def of_kafka(bootstrap, topic):
    for message in real.read(bootstrap, topic):
        yield message.key(), message.timestamp()[1], msgspec.json.decode(message.value()), message.headers() or []


def in_order(records):
    """Each place has its own way to choose the partition of a key."""
    return sorted(records, key=lambda record: msgspec.json.encode([record[0], record[2]]))


def test_two_lines(kafka, tmp_path):
    """Kind: names, arguments or results that differ, where the documentation says that they do not."""
    topics = Topics(kafka.bootstrap)
    name = topics.create(3)
    program = PROGRAM.replace("IN", name).replace("OUT", f"{name}-out").replace("BAD", f"{name}-bad")
    values = [b"{"] + [msgspec.json.encode({"n": n, "key": f"k{n % 7}"}) for n in range(1, 300)]
    kafka_producer = topics.producer()
    (tmp_path / "log").mkdir()
    with Log.open(tmp_path / "log" / "events") as log:
        log.create_topic(name, partitions=3)
        with Producer(log) as producer:
            for n, value in enumerate(values):
                place = {"partition": n % 3, "timestamp": (20_000 * DAY_MS) + n * 3_600_000}
                producer.produce(name, value, **place)
                kafka_producer.produce(name, value, **place)
    assert kafka_producer.flush(30) == 0
    played(tmp_path / "log", program)
    two_lines = TWO_LINES.format(kafka.bootstrap)
    changed = program.split("\n", 3)
    played(tmp_path / "kafka", two_lines + changed[3])
    assert len(two_lines.strip().split("\n")) == 2
    with Log.open(tmp_path / "log" / "events", read_only=True) as log:
        shown = in_order(of_log(log, f"{name}-out"))
        refused = [record[2] for record in of_log(log, f"{name}-bad")]
    assert in_order(of_kafka(kafka.bootstrap, f"{name}-out")) == shown
    assert [record[2] for record in of_kafka(kafka.bootstrap, f"{name}-bad")] == refused
    assert len(shown) == 7 * 13
    assert len(refused) == 1
