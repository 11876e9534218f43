"""Topics of a real Kafka for tests, written by the vendor's own client; jobs that read them."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import msgspec
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

import onceflow as of
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.kafka import KafkaSource

_numbers = itertools.count()


class Topics:
    """Makes topics of their own for a test."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = AdminClient({"bootstrap.servers": bootstrap})

    def create(self, partitions: int = 1, *, name: str | None = None, **config: str) -> str:
        """A topic's name. Records may be as old as they like."""
        config = {"retention.ms": "-1", **{key.replace("_", "."): value for key, value in config.items()}}
        name = name or f"topic-{time.time_ns()}-{next(_numbers)}"
        deadline = time.monotonic() + 30
        while True:
            try:
                self.admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result()
                return name
            except KafkaException:
                # One of the name that is being deleted.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def recreate(self, name: str, partitions: int = 1) -> None:
        """Deletes a topic and makes it anew."""
        self.admin.delete_topics([name])[name].result()
        self.create(partitions, name=name)

    def grow(self, name: str, partitions: int) -> None:
        """Gives a topic more partitions."""
        self.admin.create_partitions([NewPartitions(name, partitions)])[name].result()

    def delete_records(self, name: str, before: int, partition: int = 0) -> None:
        """As retention does."""
        place = TopicPartition(name, partition, before)
        next(iter(self.admin.delete_records([place]).values())).result()

    def producer(self, transactional_id: str | None = None, **config: object) -> Producer:
        """A producer; one with an id is ready for transactions."""
        config = {name.replace("_", "."): value for name, value in config.items()}
        if transactional_id is None:
            return Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 2, **config})
        config["transactional.id"] = transactional_id
        producer = Producer({"bootstrap.servers": self.bootstrap, "logger": _Silent(), **config})
        producer.init_transactions()
        return producer

    def write(self, name: str, values: object, partition: int = 0, **arguments: object) -> None:
        """Writes values, as JSON unless they are bytes."""
        producer = self.producer()
        for value in values:
            data = value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)
            producer.produce(name, data, partition=partition, **arguments)
            producer.poll(0)
        assert producer.flush(30) == 0


class _Silent:
    """Takes what the client logs."""

    def log(self, *arguments: object) -> None:
        pass


def read(source: KafkaSource, state: Path, **arguments: object) -> tuple[list[object], of.JobResult]:
    """What a run of a job hands out of a source, all runs of the state before included."""
    flow = of.Dataflow("reads")
    out = state.with_name(state.name + "-out")
    flow.source("in", source).map(_plain).sink("out", JsonLinesSink(out))
    result = of.run(flow, state=state, checkpoint_interval_s=0.05, **arguments)
    return written(out), result


def written(out: Path) -> list[object]:
    """What a directory of JSON Lines has."""
    return [msgspec.json.decode(line) for line in read_parts(out).splitlines()]


def _plain(record: object) -> object:
    return record.decode() if isinstance(record, bytes) else record
