"""A job that reads a real Kafka is killed, and the broker too: each record comes once, whatever happens when."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka_reading import read, written
from services.kafka import KafkaBroker
from topics import Topics

from onceflow.connectors.kafka import KafkaSource
from onceflow.exceptions import SourceError

JOB = Path(__file__).with_name("kafka_job.py")
PARTITIONS = 3
RECORDS = 3000
#: One of each part of a checkpoint, and of a recovery.
POINTS = ["task.pre_snapshot:3", "sink.post_prepare:2", "decide.post_wait:2", "file.post_rename:2", "job.end:1"]


def write(topics: Topics, first: int, last: int) -> str:
    """Numbers in transactions of different sizes, aborted ones between them, control records behind the last one."""
    name = topics.create(PARTITIONS)
    producer = topics.producer(f"{name}-writer")
    chance = random.Random(first)
    number = first
    while number < last:
        aborts = chance.random() < 0.3
        end = min(last, number + chance.randint(1, 150))
        producer.begin_transaction()
        for n in range(number, end):
            value = b'{"n": %d, "key": "k%d"}' % (-1 if aborts else n, n % 10)
            producer.produce(name, value, partition=n % PARTITIONS)
        producer.flush()
        if aborts:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
            number = end
    return name


def life(root: Path, bootstrap: str, topic: str, crash_at: str | None = None) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if name not in ("CRASH_AT", "STOP_AT")}
    if crash_at is not None:
        env["CRASH_AT"] = crash_at
    return subprocess.Popen([sys.executable, "-W", "ignore", str(JOB), str(root), bootstrap, topic], env=env)


def check(root: Path) -> None:
    """Each number once, and the last total of each key."""
    assert sorted(record["n"] for record in written(root / "each")) == list(range(RECORDS))
    # Totals are shown as they grow.
    last = {record["key"]: record for record in written(root / "totals")}
    assert {key: record["total"] for key, record in last.items()} == {
        f"k{digit}": sum(range(digit, RECORDS, 10)) for digit in range(10)
    }
    assert sum(record["n"] for record in last.values()) == RECORDS


@pytest.fixture(scope="module")
def numbers(kafka):
    topics = Topics(kafka.bootstrap)
    return kafka.bootstrap, write(topics, 0, RECORDS)


@pytest.mark.usefixtures("crash_points")
def test_killed_at_points_of_a_checkpoint(numbers, tmp_path):
    """Killed once at each of a few points, one life after the other: what a life leaves the next one must bear."""
    bootstrap, topic = numbers
    for point in POINTS:
        assert life(tmp_path, bootstrap, topic, point).wait(60) == -signal.SIGKILL, point
    assert life(tmp_path, bootstrap, topic).wait(60) == 0
    check(tmp_path)


def test_killed_at_random(numbers, tmp_path):
    """Killed wherever it is, until it gets through."""
    bootstrap, topic = numbers
    chance = random.Random(4)
    for _ in range(4):
        job = life(tmp_path, bootstrap, topic)
        # Beginning included.
        time.sleep(chance.uniform(0.3, 2.0))
        job.kill()
        job.wait()
    assert life(tmp_path, bootstrap, topic).wait(60) == 0
    check(tmp_path)


def test_broker_killed_while_it_is_read(tmp_path, kafka):
    """The broker is killed and comes back while the job waits for a transaction, which then commits."""
    with KafkaBroker(tmp_path / "broker") as broker:
        topics = Topics(broker.bootstrap)
        name = write(topics, 0, RECORDS - 100)
        producer = topics.producer(name)
        producer.begin_transaction()
        for n in range(RECORDS - 100, RECORDS):
            producer.produce(name, b'{"n": %d, "key": "k%d"}' % (n, n % 10), partition=n % PARTITIONS)
        producer.flush()
        job = life(tmp_path, broker.bootstrap, name)
        deadline = time.monotonic() + 60
        while not list((tmp_path / "each").glob("part-*")):
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        broker.kill()
        time.sleep(1)
        assert job.poll() is None
        broker.start()
        producer.commit_transaction(60)
        assert job.wait(90) == 0
    check(tmp_path)


def test_k22_a_broker_that_starts_and_an_empty_partition(tmp_path):
    """Kind (K22): a job that begins while the broker does is told of no topic, or of fewer partitions, and begins some
    of them anew; a partition that was empty has no position, and is taken for a new one."""
    with KafkaBroker(tmp_path / "broker") as broker:
        topics = Topics(broker.bootstrap)
        name = topics.create(PARTITIONS)
        source = KafkaSource(broker.bootstrap, name, decode="json", start="latest")
        topics.write(name, [{"n": -1}])
        assert read(source, tmp_path / "state", until="caught_up")[0] == []
        wanted = []
        for turn in range(2):
            # The last partition stays empty up to the last turn.
            for partition in range(PARTITIONS - (turn < 1)):
                wanted.append({"n": 10 * turn + partition})
                topics.write(name, wanted[-1:], partition=partition)
            broker.kill()
            broker.launch()
            deadline = time.monotonic() + 60
            while True:
                try:
                    found, _ = read(source, tmp_path / "state", until="caught_up")
                    break
                except SourceError as error:
                    # Such as that the topic is not known yet: another attempt helps.
                    assert time.monotonic() < deadline, error
            broker.wait_until_ready()
            assert sorted(record["n"] for record in found) == [record["n"] for record in wanted]
