"""Staged records on their way into a Kafka producer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onceflow._native import _kafka_partitions
from onceflow.connectors.kafka.facts import TopicFacts
from onceflow.connectors.kafka.quota import Quota
from onceflow.connectors.kafka.settings import KafkaSettings
from onceflow.connectors.topics.staged import ArrowColumn, Part, Strings
from onceflow.connectors.waiting import Waiting

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

__all__ = ["bytes_of", "choose_partitions", "flush", "produce", "settings_of"]

#: A client's queue, which holds what is sent a second time.
_QUEUE_RECORDS = 100_000
_QUEUE_KIB = 64 << 10
_BATCH = 1_000_000
_WAIT_S = 0.01
_FLUSH_S = 0.01


def settings_of(
    settings: KafkaSettings,
    facts: TopicFacts,
    on_delivery: Callable[[KafkaError | None, Message], None],
    quota: Quota,
    fixed: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Of a producer that writes to a topic.

    Args:
        settings: Of the cluster.
        facts: Of the topic.
        on_delivery: Called for what was not accepted.
        quota: Hears how long the brokers hold it back.
        fixed: What else the connector decides.
        defaults: What else it sets where the user's settings do not.

    Raises:
        ConfigurationError: The user has set what the connector decides.
    """
    # One batch of the client is one of the topic, which has a bound.
    largest = max(1_000, min(facts.max_bytes, 1_000_000_000))
    ours = {
        "enable.idempotence": True,
        "acks": "all",
        # A topic that is gone must not come back with other settings.
        "allow.auto.create.topics": False,
        "delivery.report.only.error": True,
        "on_delivery": on_delivery,
        "message.max.bytes": largest,
    }
    usual = {
        "linger.ms": 5,
        "batch.size": min(_BATCH, largest),
        "queue.buffering.max.messages": _QUEUE_RECORDS,
        "queue.buffering.max.kbytes": _QUEUE_KIB,
    }
    return settings.merged({**ours, **(fixed or {})}, {**usual, **(defaults or {})}, on_throttle=quota.heard)


def choose_partitions(part: Part, partitions: int, turn: int) -> None:
    """Gives each record that has no partition one, as Kafka's Java clients would: by its key.

    Args:
        part: Changed in place.
        partitions: How many there are.
        turn: The one of records without a key.
    """
    if part.partitions is not None:
        return
    if partitions == 1 or part.keys is None:
        part.partitions = turn
    else:
        part.partitions = _kafka_partitions(bytes_of(part.keys), partitions, turn)


def bytes_of(strings: Strings) -> list[bytes | None]:
    """Bytes of each record."""
    found: list[Any] = strings.take().to_pylist() if isinstance(strings, ArrowColumn) else strings.take()
    if isinstance(strings, ArrowColumn):
        return [each.encode() if isinstance(each, str) else each for each in found]
    return found


def flush(producer: Producer, check: Callable[[], None], until: float, waiting: Waiting, quota: Quota) -> int:
    """Waits until everything was accepted, or not.

    Args:
        producer: Of the client.
        check: Raises when something was not.
        until: By the monotonic clock.
        waiting: Is told when no more records are accepted.
        quota: That brokers have on this client.

    Returns:
        How many records have no answer yet.
    """
    # In small steps: without a report of success nothing wakes the client when the last record was accepted.
    before = -1
    while (left := producer.flush(_FLUSH_S)) and time.monotonic() < until:
        check()
        quota.tell()
        if left == before:
            waiting.missed(f"{left} records have no answer{quota.hint()}")
        else:
            waiting.answered()
        before = left
    check()
    if not left:
        waiting.answered()
    return left


def produce(
    producer: Producer, topic: str, part: Part, written_ms: int, until: float, waiting: Waiting, first: int = 0
) -> int:
    """Hands records to a producer; waits while its queue is full.

    Args:
        producer: Of the client.
        topic: Where they go.
        part: Its partitions are chosen.
        written_ms: The timestamp of records that have none.
        until: By the monotonic clock: so long it waits.
        waiting: Is told when it does.
        first: Of the records that are handed over; those before it were.

    Returns:
        How many of them the producer has by now: all, unless the queue stayed full for so long.
    """
    values = bytes_of(part.values)
    count = len(values)
    keys = [None] * count if part.keys is None else bytes_of(part.keys)
    times = [written_ms] * count if part.timestamps is None else part.timestamps
    partitions = part.partitions if isinstance(part.partitions, list) else [part.partitions or 0] * count
    headers: list[Any] = part.headers or [None] * count
    send, poll = producer.produce, producer.poll
    records = zip(values, keys, partitions, times, headers, strict=True)
    for number, record in enumerate(itertools.islice(records, first, None), first):
        value, key, partition, time_ms, header = record
        while True:
            try:
                send(topic, value, key, partition, None, None, time_ms, header)
                break
            except BufferError:
                if time.monotonic() > until:
                    return number
                waits = len(producer)
                poll(_WAIT_S)
                if len(producer) < waits:
                    waiting.answered()
                else:
                    waiting.missed("the client's queue is full of records without an answer")
    poll(0)
    return count
