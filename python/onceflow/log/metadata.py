"""What ``confluent_kafka`` knows of a cluster, of a log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onceflow.exceptions import OnceflowError, UnknownTopicOrPartitionError
from onceflow.log.settings import check_name, check_timeout

if TYPE_CHECKING:
    from onceflow import _native

__all__ = ["ClusterMetadata", "Described", "PartitionMetadata", "TopicMetadata"]


@dataclass(frozen=True, slots=True)
class PartitionMetadata:
    """One partition.

    Attributes:
        id: Its number.
        leader: -1: there are no brokers.
        replicas: None of them.
        isrs: None of them.
        error: Never any.
    """

    id: int
    leader: int = -1
    replicas: list[int] = field(default_factory=list)
    isrs: list[int] = field(default_factory=list)
    error: None = None


@dataclass(frozen=True, slots=True)
class TopicMetadata:
    """One topic.

    Attributes:
        topic: Its name.
        partitions: By number.
        error: Why nothing is known of it: there is no such topic.
    """

    topic: str
    partitions: dict[int, PartitionMetadata] = field(default_factory=dict)
    error: OnceflowError | None = None


@dataclass(frozen=True, slots=True)
class ClusterMetadata:
    """What ``list_topics`` returns.

    Attributes:
        cluster_id: Identity of the log.
        topics: By name.
        brokers: None of them.
        controller_id: -1: there is none.
        orig_broker_id: -1: nobody was asked.
        orig_broker_name: The directory.
    """

    cluster_id: str
    topics: dict[str, TopicMetadata]
    orig_broker_name: str
    brokers: dict[int, object] = field(default_factory=dict)
    controller_id: int = -1
    orig_broker_id: int = -1


class Described:
    """What producers and consumers say of their log; a part of both."""

    _log: _native.Log

    def list_topics(self, topic: str | None = None, timeout: float | None = -1) -> ClusterMetadata:
        """All topics with their partitions, in the form of ``confluent_kafka``; see also ``Log.topics``.

        Args:
            topic: Only this one; its ``error`` says if there is none of this name.
            timeout: For compatibility; nothing is waited for.
        """
        check_name("list_topics: topic", topic)
        check_timeout("list_topics: timeout", timeout)
        try:
            found = self._log.topics() if topic is None else [self._log.topic(topic)]
            topics = [
                TopicMetadata(each.name, {number: PartitionMetadata(number) for number in range(each.partitions)})
                for each in found
            ]
        except UnknownTopicOrPartitionError as error:
            topics = [TopicMetadata(str(topic), error=error)]
        return ClusterMetadata(self._log.id, {each.topic: each for each in topics}, self._log.path)

    def cluster_id(self, timeout: float | None = -1) -> str:
        """Identity of the log, made with it; copies have the same."""
        check_timeout("cluster_id: timeout", timeout)
        return self._log.id
