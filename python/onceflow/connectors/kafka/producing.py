"""Staged records on their way into a Kafka producer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onceflow._native import _kafka_partitions
from onceflow.connectors.kafka.facts import TopicFacts
from onceflow.connectors.kafka.settings import KafkaSettings
from onceflow.connectors.topics.staged import ArrowColumn, Part, Strings
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import SinkError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

__all__ = ["check_part", "check_times", "choose_partitions", "flush", "produce", "settings_of"]

#: A client's queue, which holds what is sent a second time.
_QUEUE_RECORDS = 100_000
_QUEUE_KIB = 64 << 10
_BATCH = 1_000_000
#: A batch of one record: its own head, and around the record what is not key, value or headers; each header has two
#: lengths of its own.
_BATCH_BYTES = 61 + 23
_HEADER_BYTES = 10
_WAIT_S = 0.01
_FLUSH_S = 0.01


def settings_of(
    settings: KafkaSettings,
    facts: TopicFacts,
    on_delivery: Callable[[KafkaError | None, Message], None],
    fixed: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Of a producer that writes to a topic.

    Args:
        settings: Of the cluster.
        facts: Of the topic.
        on_delivery: Called for what was not accepted.
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
    return settings.merged({**ours, **(fixed or {})}, {**usual, **(defaults or {})})


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


def check_part(part: Part, facts: TopicFacts) -> None:
    """Refuses records that the topic would refuse.

    Raises:
        SinkError: One is too large, has a partition that is not there, or no key where the topic is compacted.
    """
    values, keys = bytes_of(part.values), None if part.keys is None else bytes_of(part.keys)
    limit = facts.max_bytes - _BATCH_BYTES
    longest = max(map(len, filter(None, values)), default=0)
    longest += 0 if keys is None else max(map(len, filter(None, keys)), default=0)
    if longest > limit or part.headers is not None:
        for number, value in enumerate(values):
            size = len(value or b"") + len((keys[number] if keys else None) or b"")
            headers = (part.headers[number] if part.headers else None) or ()
            size += sum(len(name.encode()) + len(content or b"") + _HEADER_BYTES for name, content in headers)
            if size > limit:
                raise SinkError(
                    f"a record of {size:,} bytes (key {keys[number] if keys else None!r:.100}) is too large for topic "
                    f"{facts.name!r}, whose max.message.bytes={facts.max_bytes:,} leaves {limit:,} for key, value and "
                    "headers: raise it, or write smaller records"
                )
    if "compact" in facts.cleanup and (keys is None or None in keys):
        raise SinkError(
            f"topic {facts.name!r} is compacted (cleanup.policy={facts.cleanup!r}) and takes no record without a key: "
            "give the sink a key"
        )
    partitions = part.partitions
    largest = partitions if isinstance(partitions, int) else max(partitions or [0])
    if largest >= facts.partitions:
        raise SinkError(
            f"a record goes to partition {largest}, and topic {facts.name!r} has {facts.partitions}, from 0 on"
        )


def check_times(part: Part, facts: TopicFacts, now_ms: int) -> None:
    """Refuses timestamps that the broker would refuse.

    Raises:
        SinkError: One is too far from now.
    """
    if part.timestamps is None or facts.log_append_time or not part.timestamps:
        return
    for time_ms, ahead, bound, setting in (
        (max(part.timestamps), 1, facts.future_ms, "message.timestamp.after.max.ms"),
        (min(part.timestamps), -1, facts.past_ms, "message.timestamp.before.max.ms"),
    ):
        if (time_ms - now_ms) * ahead > bound:
            raise SinkError(
                f"a record has the timestamp {time_ms} ms, {abs(time_ms - now_ms) / 1000:,.0f} s "
                f"{'after' if ahead > 0 else 'before'} now, and topic {facts.name!r} takes {bound / 1000:,.0f} s at "
                f"most ({setting}): let the topic take it, or give the sink another timestamp"
            )
    if min(part.timestamps) <= 0:
        # The client takes 0 for "now".
        raise SinkError(f"a record has the timestamp {min(part.timestamps)} ms, and Kafka takes them from 1 on")


def flush(producer: Producer, check: Callable[[], None], until: float, waiting: Waiting) -> int:
    """Waits until everything was accepted, or not.

    Args:
        producer: Of the client.
        check: Raises when something was not.
        until: By the monotonic clock.
        waiting: Is told when no more records are accepted.

    Returns:
        How many records have no answer yet.
    """
    # In small steps: without a report of success nothing wakes the client when the last record was accepted.
    before = -1
    while (left := producer.flush(_FLUSH_S)) and time.monotonic() < until:
        check()
        if left == before:
            waiting.missed(f"{left} records have no answer")
        else:
            waiting.answered()
        before = left
    check()
    if not left:
        waiting.answered()
    return left


def produce(producer: Producer, topic: str, part: Part, staged_ms: int, until: float, waiting: Waiting) -> None:
    """Hands records to a producer; waits while its queue is full.

    Args:
        producer: Of the client.
        topic: Where they go.
        part: Its partitions are chosen.
        staged_ms: The timestamp of records that have none.
        until: By the monotonic clock; ``BufferError`` is raised if the queue stays full so long.
        waiting: Is told when it does.
    """
    values = bytes_of(part.values)
    count = len(values)
    keys = [None] * count if part.keys is None else bytes_of(part.keys)
    times = [staged_ms] * count if part.timestamps is None else part.timestamps
    partitions = part.partitions if isinstance(part.partitions, list) else [part.partitions or 0] * count
    headers: list[Any] = part.headers or [None] * count
    send, poll = producer.produce, producer.poll
    for record in zip(values, keys, partitions, times, headers, strict=True):
        value, key, partition, time_ms, header = record
        while True:
            try:
                send(topic, value, key, partition, None, None, time_ms, header)
                break
            except BufferError:
                if time.monotonic() > until:
                    raise
                waits = len(producer)
                poll(_WAIT_S)
                if len(producer) < waits:
                    waiting.answered()
                else:
                    waiting.missed("the client's queue is full of records without an answer")
    poll(0)
