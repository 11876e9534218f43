"""Topics of the real broker, made and read with the vendor's client alone."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

__all__ = ["admin", "create", "delete", "name", "producer", "read"]

_QUIET = {"log_level": 0, "error_cb": lambda error: None}
_NUMBERS = itertools.count(1)


def name(of: str) -> str:
    """A name that no other test has."""
    return f"{of}-{next(_NUMBERS)}-{uuid.uuid4().hex[:6]}"


def admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, **_QUIET})


def producer(bootstrap: str, transactional_id: str | None, **settings: object) -> Producer:
    """Of somebody else."""
    given = {} if transactional_id is None else {"transactional.id": transactional_id}
    return Producer({"bootstrap.servers": bootstrap, **given, **settings, **_QUIET})


def create(bootstrap: str, topic: str, partitions: int = 1, **config: object) -> None:
    """``config``: with underscores for dots."""
    settings = {key.replace("_", "."): str(value) for key, value in config.items()}
    # A client that is let go takes its requests along.
    client = admin(bootstrap)
    client.create_topics([NewTopic(topic, partitions, 1, config=settings)])[topic].result(30)


def delete(bootstrap: str, topic: str) -> None:
    client = admin(bootstrap)
    client.delete_topics([topic])[topic].result(30)
    until = time.monotonic() + 30
    while topic in client.list_topics(timeout=10).topics:
        assert time.monotonic() < until
        time.sleep(0.05)


def read(bootstrap: str, topic: str, *, isolation: str = "read_committed") -> list[Message]:
    """All records, partition after partition, in order; nothing if there is no such topic."""
    metadata = admin(bootstrap).list_topics(timeout=30).topics.get(topic)
    if metadata is None:
        return []
    partitions = sorted(metadata.partitions)
    return [message for partition in partitions for message in _records(bootstrap, topic, partition, isolation)]


def _records(bootstrap: str, topic: str, partition: int, isolation: str) -> Iterator[Message]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 5,
            **_QUIET,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        until = time.monotonic() + 60
        while time.monotonic() < until:
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error() is None:
                yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                return
            else:
                raise AssertionError(message.error())
        raise AssertionError(f"{topic} has no end")
    finally:
        consumer.close()
