"""Topics of the real broker, made and read with the vendor's client alone."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator

import msgspec
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

__all__ = ["Topics", "admin", "create", "delete", "name", "producer", "read"]

_QUIET = {"log_level": 0, "error_cb": lambda error: None}
#: What a transaction that stays open holds back is not there for who reads what is committed.
_HELD_BACK_S = 3.0
_NUMBERS = itertools.count(1)


def name(of: str) -> str:
    """A name that no other test has."""
    return f"{of}-{next(_NUMBERS)}-{uuid.uuid4().hex[:6]}"


def admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, **_QUIET})


def producer(bootstrap: str, transactional_id: str | None, **settings: object) -> Producer:
    """Of somebody else; ``settings``: with dots, or underscores for them."""
    given = {} if transactional_id is None else {"transactional.id": transactional_id}
    given |= {key.replace("_", "."): value for key, value in settings.items()}
    return Producer({"bootstrap.servers": bootstrap, **given, **_QUIET})


def create(bootstrap: str, topic: str, partitions: int = 1, **config: object) -> None:
    """``config``: with underscores for dots."""
    settings = {key.replace("_", "."): str(value) for key, value in config.items()}
    # A client that is let go takes its requests along.
    client = admin(bootstrap)
    client.create_topics([NewTopic(topic, partitions, 1, config=settings)])[topic].result(30)
    until = time.monotonic() + 30
    # The controller has it; the broker hears of it a moment later.
    while topic not in client.list_topics(timeout=10).topics:
        assert time.monotonic() < until
        time.sleep(0.02)


class Topics:
    """Makes and writes topics of a test's own, of one cluster."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = admin(bootstrap)

    def create(self, partitions: int = 1, *, topic: str | None = None, **config: str) -> str:
        """A topic's name. Records may be as old as they like."""
        topic = topic or name("topic")
        deadline = time.monotonic() + 30
        while True:
            try:
                create(self.bootstrap, topic, partitions, **{"retention_ms": -1, **config})
                return topic
            except KafkaException:
                # One of the name that is being deleted.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def recreate(self, topic: str, partitions: int = 1) -> None:
        """Deletes a topic and makes it anew."""
        self.admin.delete_topics([topic])[topic].result()
        self.create(partitions, topic=topic)

    def grow(self, topic: str, partitions: int) -> None:
        """Gives a topic more partitions."""
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result()

    def delete_records(self, topic: str, before: int, partition: int = 0) -> None:
        """As retention does."""
        place = TopicPartition(topic, partition, before)
        next(iter(self.admin.delete_records([place]).values())).result()

    def producer(self, transactional_id: str | None = None, **settings: object) -> Producer:
        """A producer; one with an id is ready for transactions."""
        made = producer(self.bootstrap, transactional_id, **{"linger_ms": 2, **settings})
        if transactional_id is not None:
            made.init_transactions()
        return made

    def write(self, topic: str, values: object, partition: int = 0, **arguments: object) -> None:
        """Writes values, as JSON unless they are bytes."""
        made = self.producer()
        for value in values:
            data = value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)
            made.produce(topic, data, partition=partition, **arguments)
            made.poll(0)
        assert made.flush(30) == 0


def delete(bootstrap: str, topic: str) -> None:
    client = admin(bootstrap)
    client.delete_topics([topic])[topic].result(30)
    until = time.monotonic() + 30
    while topic in client.list_topics(timeout=10).topics:
        assert time.monotonic() < until
        time.sleep(0.05)


def read(bootstrap: str, topic: str, *, isolation: str = "read_committed") -> list[Message]:
    """All records, partition after partition, in order; nothing if there is no such topic.

    A broker answers a commit before readers of what is committed come to its records. So what an open transaction holds
    back is waited for, but not for long.
    """
    client = admin(bootstrap)
    metadata = client.list_topics(timeout=30).topics.get(topic)
    if metadata is None:
        return []
    places = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in sorted(metadata.partitions)}
    ends = _ends(client, places)
    return [
        message for partition, end in ends.items() for message in _records(bootstrap, topic, partition, isolation, end)
    ]


def _ends(client: AdminClient, places: dict[TopicPartition, OffsetSpec]) -> dict[int, int]:
    """Behind the last record of partitions. A broker that has just come back may not know its leaders for a while, and
    where a connection was lost the client answers by a negative number."""
    until = time.monotonic() + 30
    while True:
        asked = client.list_offsets(places, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=30)
        try:
            ends = {place.partition: future.result(30).offset for place, future in asked.items()}
        except KafkaException:
            if time.monotonic() > until:
                raise
        else:
            if all(end >= 0 for end in ends.values()):
                return ends
            assert time.monotonic() < until, ends
        time.sleep(0.2)
        # Asks for the leaders anew.
        client.list_topics(timeout=30)


def _records(bootstrap: str, topic: str, partition: int, isolation: str, end: int) -> Iterator[Message]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # Where records were deleted.
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 5,
            **_QUIET,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        until = time.monotonic() + 60
        ended_s = None
        while time.monotonic() < until:
            message = consumer.poll(0.1)
            if message is None:
                if ended_s is not None and time.monotonic() > ended_s + _HELD_BACK_S:
                    return
            elif message.error() is None:
                yield message
            elif message.error().code() != KafkaError._PARTITION_EOF:
                raise AssertionError(message.error())
            elif message.offset() >= end:
                return
            elif ended_s is None:
                ended_s = time.monotonic()
        raise AssertionError(f"{topic} has no end")
    finally:
        consumer.close()
