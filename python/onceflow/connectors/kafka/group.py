"""The offsets of complete checkpoints, committed for a consumer group: for tools that show how far a job is behind.

Asynchronous, and never more than one request at a time: what comes meanwhile waits, the newest of it. A failure costs
nothing but that view, so it is counted and told, and the next checkpoint tries again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text
from onceflow.exceptions import GroupOffsetsWarning

__all__ = ["GroupOffsets"]

_TIMEOUT_S = 10.0
#: The end of a run waits so long.
_LAST_S = 5.0


class GroupOffsets:
    """See the module.

    Args:
        settings: How to reach the cluster.
        group: Of the offsets.
        topic: Likewise.
    """

    def __init__(self, settings: KafkaSettings, group: str, topic: str) -> None:
        self._settings = settings
        self._admin = settings.admin()
        self._group = group
        self._topic = topic
        self._under_way: Future[Any] | None = None
        #: Commits that failed, one after the other.
        self.failures = 0

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        """Commits offsets, unless a commit is under way and ``wait`` is false: then a later checkpoint does."""
        if self._under_way is not None:
            if not (wait or self._under_way.done()):
                return
            self._settle()
        if not offsets:
            return
        library = client_library()
        places = [library.TopicPartition(self._topic, number, offset) for number, offset in sorted(offsets.items())]
        asked = self._admin.alter_consumer_group_offsets(
            [library.ConsumerGroupTopicPartitions(self._group, places)], request_timeout=_TIMEOUT_S
        )
        self._under_way = asked[self._group]
        if wait:
            self._settle()

    def _settle(self) -> None:
        asked, self._under_way = self._under_way, None
        if asked is None:
            return
        try:
            found = asked.result(_LAST_S)
            refused = [place.error for place in found.topic_partitions if place.error is not None]
            reason = error_text(refused[0]) if refused else ""
        except Exception as error:
            reason = error_text(error)
        if not reason:
            self.failures = 0
            return
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
