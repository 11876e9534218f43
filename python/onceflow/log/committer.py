"""Commits offsets in the background."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from onceflow.exceptions import OnceflowError
from onceflow.log.membership import ConsumerGroupMetadata
from onceflow.log.settings import told
from onceflow.log.topic_partition import Place, TopicPartition

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["Committer", "commit"]

#: Called with the error, or None, and the offsets.
OnCommit = Callable[[OnceflowError | None, list[TopicPartition]], object]


def commit(log: _native.Log, offsets: list[TopicPartition], metadata: ConsumerGroupMetadata, now_ms: int) -> None:
    """Commits offsets of a group, durably."""
    log.commit_offsets(
        metadata.group_id,
        [(each.topic, each.partition, each.offset, each.metadata) for each in offsets],
        now_ms=now_ms,
        member=metadata.member_id,
        generation=metadata.generation,
    )


class Committer:
    """A thread that commits the newest offsets of each partition, however many came meanwhile.

    Attributes:
        results: What was committed, or why not, for a callback.
    """

    def __init__(self, log: _native.Log, time: LogTime) -> None:
        self._log = log
        self._time = time
        self._changed = threading.Condition()
        self._waiting: dict[Place, TopicPartition] = {}
        self._metadata: ConsumerGroupMetadata | None = None
        self._busy = False
        self._stopped = False
        self.results: deque[tuple[OnceflowError | None, list[TopicPartition]]] = deque(maxlen=1000)
        self._thread = threading.Thread(target=self._run, name="onceflow-commits", daemon=True)
        self._thread.start()

    def submit(self, offsets: list[TopicPartition], metadata: ConsumerGroupMetadata) -> None:
        """Offsets to be committed soon."""
        with self._changed:
            if metadata != self._metadata:
                # Of another membership: the log would refuse them.
                self._waiting.clear()
            self._metadata = metadata
            self._waiting.update({each.place: each for each in offsets})
            self._changed.notify_all()

    def wait(self) -> None:
        """Until all that was submitted has been committed or refused. A synchronous commit comes after it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy)

    def end(self) -> None:
        """The thread ends when what was submitted is committed."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Commits what was submitted, and ends the thread."""
        self.end()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                offsets, metadata = list(self._waiting.values()), self._metadata
                self._waiting.clear()
                if not offsets or metadata is None:
                    return
                self._busy = True
            error = None
            try:
                commit(self._log, offsets, metadata, now_ms=self._time.now_ms())
            except Exception as failed:
                error = told(failed)
            with self._changed:
                self._busy = False
                self.results.append((error, offsets))
                self._changed.notify_all()
