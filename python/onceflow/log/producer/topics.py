"""What a producer knows of the topics that it writes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.exceptions import RecordTooLargeError, UnknownTopicOrPartitionError

if TYPE_CHECKING:
    from onceflow import _native

__all__ = ["TopicCache"]


class TopicCache:
    """Topics as the log had them when a record was checked last.

    Attributes:
        known: By name.
    """

    def __init__(self, log: _native.Log) -> None:
        self._log = log
        self.known: dict[str, _native.LogTopic] = {}
        self._names: dict[int, str] = {}

    def check(self, topic: str, partition: int, size: int) -> None:
        """Refuses a record that cannot be written, by what the log says now.

        Raises:
            UnknownTopicOrPartitionError: No such topic or partition.
            RecordTooLargeError: The topic does not take so much.
        """
        known = self.known[topic] = self._log.topic(topic)
        self._names[known.number] = topic
        if not -1 <= partition < known.partitions:
            raise UnknownTopicOrPartitionError(
                f"topic {topic!r} has {known.partitions} partitions, from 0; there is no {partition}",
                topic=topic,
                partition=partition,
            )
        if size > known.max_record_bytes:
            raise RecordTooLargeError(
                f"key and value have {size} bytes; topic {topic!r} takes {known.max_record_bytes} (max_record_bytes)",
                topic=topic,
                size=size,
                limit=known.max_record_bytes,
            )

    def partitions(self, topic: str) -> int:
        """How many a topic has of which a record was checked."""
        return self.known[topic].partitions

    def name(self, number: int) -> str:
        """The name of a topic; empty if it was deleted a moment ago."""
        name = self._names.get(number)
        if name is None:
            self._names = {topic.number: topic.name for topic in self._log.topics()}
            name = self._names.get(number, "")
        return name
