"""What is in a log, read without a consumer's state."""

from __future__ import annotations

from onceflow.log import OFFSET_BEGINNING, Consumer, Log, Message, TopicPartition


def everything(log: Log, topic: str) -> list[Message]:
    """All records of a topic, partition after partition."""
    with Consumer(log) as consumer:
        partitions = range(log.topic(topic).partitions)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        found: list[Message] = []
        while some := consumer.consume(10_000, 0):
            found += some
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


def values(log: Log, topic: str) -> list[bytes | None]:
    """Their values."""
    return [message.value() for message in everything(log, topic)]
