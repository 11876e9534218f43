"""The offsets of complete checkpoints, committed for a consumer group: for tools that show how far a job is behind.

Asynchronous, and never more than one request at a time: what comes meanwhile is left to the next checkpoint. A failure
costs nothing but that view, so it is counted and told, and the next checkpoint tries again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text
from onceflow.exceptions import GroupOffsetsWarning

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, TopicPartition

__all__ = ["GroupOffsets"]

#: The end of a run waits so long.
_LAST_S = 5.0


class GroupOffsets:
    """See the module.

    Args:
        settings: How to reach the cluster.
        group: Of the offsets.
        topic: Likewise.

    Raises:
        ConfigurationError: The client refuses the settings.
    """

    def __init__(self, settings: KafkaSettings, group: str, topic: str) -> None:
        self._settings = settings
        self._group = group
        self._topic = topic
        self._is_under_way = False
        #: Commits that failed, one after the other.
        self.failures = 0
        # It reads nothing, so it is no member of the group.
        fixed = {"group.id": group, "enable.auto.commit": False, "on_commit": self._answered}
        self._consumer: Consumer = settings.consumer(settings.merged(fixed, {"client.id": "onceflow"}))

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        """Commits offsets, unless a commit is under way and ``wait`` is false: then a later checkpoint does."""
        self._consumer.poll(0)
        if wait:
            self._settle()
        if self._is_under_way or not offsets:
            return
        library = client_library()
        places = [library.TopicPartition(self._topic, number, offset) for number, offset in sorted(offsets.items())]
        try:
            self._is_under_way = True
            self._consumer.commit(offsets=places, asynchronous=True)
        except library.KafkaException as error:
            self._is_under_way = False
            self._failed(error_text(error))
        if wait:
            self._settle()

    def _settle(self) -> None:
        """Waits for the answer, for a while."""
        until = time.monotonic() + _LAST_S
        while self._is_under_way and time.monotonic() < until:
            self._consumer.poll(0.05)
        if self._is_under_way:
            self._is_under_way = False
            self._failed("no broker answers")

    def _answered(self, error: KafkaError | None, places: Sequence[TopicPartition]) -> None:
        """Called by the client, from within a poll."""
        self._is_under_way = False
        refused = [place.error for place in places if place.error is not None]
        if error is None and not refused:
            self.failures = 0
        else:
            self._failed(error_text(error if error is not None else refused[0]))

    def _failed(self, reason: str) -> None:
        self.failures += 1
        if self.failures == 1:
            warnings.warn(
                GroupOffsetsWarning(
                    f"the offsets of group {self._group!r} in topic {self._topic!r} could not be committed, so tools "
                    f"show more lag than there is: {self._settings.redacted(reason)}. Nothing else is concerned; each "
                    "checkpoint tries again. A group with live members takes no offsets from outside: give a group "
                    "of its own"
                ),
                stacklevel=2,
            )
