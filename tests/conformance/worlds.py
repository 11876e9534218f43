"""The embedded log and a real Kafka, so that one program runs against either."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable
from types import ModuleType
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

import onceflow.log
from onceflow.exceptions import OnceflowError

__all__ = ["EmbeddedWorld", "KafkaWorld", "World", "flags"]

_QUIET = {"log_level": 0, "error_cb": lambda error: None}
_NUMBERS = itertools.count(1)


def flags(error: Any) -> dict[str, object]:
    """What a program asks of an error: of ours itself, of Kafka's exception the ``KafkaError`` in it."""
    if isinstance(error, confluent_kafka.KafkaException):
        error = error.args[0]
    return {
        "fatal": error.fatal(),
        "retriable": error.retriable(),
        "requires_abort": error.txn_requires_abort(),
        "code": error.code(),
    }


class World:
    """A server and its clients.

    Attributes:
        api: The module that the constants and ``TopicPartition`` are taken from.
        error: What its clients raise.
    """

    api: ModuleType
    error: type[Exception]

    def __init__(self) -> None:
        self._made: list[Any] = []

    def topic(self, partitions: int = 1, name: str | None = None) -> str:
        """Makes a topic."""
        raise NotImplementedError

    def add_partitions(self, topic: str, partitions: int) -> None:
        """So many it has then."""
        raise NotImplementedError

    def producer(self, transactional_id: str | None = None, **settings: Any) -> Any:
        """A producer; settings of Kafka with ``_`` for ``.``, in milliseconds."""
        raise NotImplementedError

    def consumer(self, group: str | None = None, **settings: Any) -> Any:
        """A consumer that reads from the beginning and commits only what it is told to."""
        raise NotImplementedError

    def place(self, topic: str, partition: int = 0, offset: int = -1001, *metadata: str) -> Any:
        """A ``TopicPartition`` of this world."""
        return self.api.TopicPartition(topic, partition, offset, *metadata)

    def fill(self, topic: str, count: int, partition: int = 0, first_ms: int = 1_700_000_000_000) -> None:
        """Records ``0``, ``1`` and so on, a second apart."""
        producer = self.producer()
        for number in range(count):
            producer.produce(topic, b"%d" % number, partition=partition, timestamp=first_ms + 1000 * number)
        assert producer.flush(30) == 0

    def caught(self, call: Callable[[], object]) -> dict[str, object] | None:
        """The flags of what a call raises."""
        try:
            call()
        except self.error as error:
            return flags(error)
        return None

    def close(self) -> None:
        """All consumers that were made."""
        for each in self._made:
            each.close()

    @staticmethod
    def name(of: str) -> str:
        """A name that nobody has."""
        return f"{of}-{next(_NUMBERS)}-{uuid.uuid4().hex[:6]}"


class KafkaWorld(World):
    """A broker."""

    api = confluent_kafka
    error = confluent_kafka.KafkaException

    def __init__(self, bootstrap: str) -> None:
        super().__init__()
        self._server = {"bootstrap.servers": bootstrap, **_QUIET}
        self._admin = AdminClient(self._server)

    def topic(self, partitions: int = 1, name: str | None = None) -> str:
        name = name or self.name("conformance")
        self._admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)
        self._wait(name, partitions)
        return name

    def add_partitions(self, topic: str, partitions: int) -> None:
        self._admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(30)
        self._wait(topic, partitions)

    def _wait(self, topic: str, partitions: int) -> None:
        until = time.monotonic() + 30
        while len(self._admin.list_topics(topic, timeout=10).topics[topic].partitions) < partitions:
            assert time.monotonic() < until
            time.sleep(0.02)

    def producer(self, transactional_id: str | None = None, **settings: Any) -> Any:
        given = {name.replace("_", "."): value for name, value in settings.items()}
        if transactional_id is not None:
            given["transactional.id"] = transactional_id
        return confluent_kafka.Producer({**self._server, "linger.ms": 1, "enable.idempotence": True, **given})

    def consumer(self, group: str | None = None, **settings: Any) -> Any:
        callback = {"on_commit": settings.pop("on_commit")} if "on_commit" in settings else {}
        given = {name.replace("_", "."): value for name, value in settings.items()}
        made = confluent_kafka.Consumer(
            {
                **self._server,
                "group.id": group or self.name("group"),
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "topic.metadata.refresh.interval.ms": 500,
                "heartbeat.interval.ms": 200,
                "fetch.wait.max.ms": 20,
                **given,
                **callback,
            }
        )
        self._made.append(made)
        return made


class EmbeddedWorld(World):
    """A log."""

    api = onceflow.log
    error = OnceflowError

    def __init__(self, log: onceflow.log.Log) -> None:
        super().__init__()
        self._log = log

    def topic(self, partitions: int = 1, name: str | None = None) -> str:
        name = name or self.name("conformance")
        self._log.create_topic(name, partitions=partitions)
        return name

    def add_partitions(self, topic: str, partitions: int) -> None:
        self._log.alter_topic(topic, partitions=partitions)

    def producer(self, transactional_id: str | None = None, **settings: Any) -> Any:
        if "linger_ms" in settings:
            settings["linger_s"] = settings.pop("linger_ms") / 1000
        return onceflow.log.Producer(self._log, transactional_id=transactional_id, **settings)

    def consumer(self, group: str | None = None, **settings: Any) -> Any:
        made = onceflow.log.Consumer(self._log, group or self.name("group"), **settings)
        self._made.append(made)
        return made
